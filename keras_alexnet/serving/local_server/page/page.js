"use strict";

const MODEL_PATH = `/v1/models/${encodeURIComponent(document.documentElement.dataset.model)}`;
// The best first. An export from before there was `explain` still names the classes.
const SIGNATURES = ["explain", "serving_default"];
const ANSWER_MILLISECONDS = 120_000;
const KEPT_PHOTOS = 10;
const STORED_SIZE = 256; // where the answer does not say
// Matplotlib's inferno, five of its colours: dark is no evidence, bright is most.
const HEAT_COLORS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

const percent = new Intl.NumberFormat("en", {
  style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1,
});
const byId = (id) => document.getElementById(id);

let kept = []; // what was answered, the newest first
let underWay = new AbortController(); // of all photos that were given since the last clearing
let queue = Promise.resolve();

/** Something to tell the person, in one sentence. */
class Trouble extends Error {}

// ---- the server

/** The parsed answer of the server: to a POST of `body` if there is one, else to a GET. */
async function ask(path, signal, body) {
  const options = body && { method: "POST", body: JSON.stringify(body) };
  const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MILLISECONDS)]);
  let response, document;
  try {
    response = await fetch(MODEL_PATH + path, { ...options, signal: limit });
    document = await response.json();
  } catch (error) {
    signal.throwIfAborted();
    if (error.name === "TimeoutError") {
      throw new Trouble(`No answer within ${ANSWER_MILLISECONDS / 1000} seconds.`);
    }
    if (response) {
      throw new Trouble(`The server's answer cannot be read (HTTP ${response.status}).`);
    }
    throw new Trouble(`The server at ${location.host} does not answer. Is it still running?`);
  }
  if (!response.ok) {
    throw Object.assign(new Trouble(`The server says: ${document.error}`), { status: response.status });
  }
  return document;
}

/** Number and signatures of the version that is served now. */
async function servedVersion(signal) {
  const { model_spec, metadata } = await ask("/metadata", signal);
  byId("version").textContent = `version ${model_spec.version}`;
  const signature = SIGNATURES.find((name) => name in metadata.signature_def.signature_def);
  if (!signature) {
    throw new Trouble(`The model has no signature ${SIGNATURES.join(" or ")}; this page needs one.`);
  }
  return { number: model_spec.version, signature };
}

/** The first (only) row of each output for a photo, and the version that gave it. */
async function explain(photo, signal) {
  const inputs = { image_bytes: [{ b64: await base64(photo) }] };
  const predict = async () => {
    const version = await servedVersion(signal);
    const body = { signature_name: version.signature, inputs };
    // By its number, so that the answer is that of the version that the page names.
    const { outputs } = await ask(`/versions/${version.number}:predict`, signal, body);
    const first = Object.entries(outputs).map(([name, rows]) => [name, rows[0]]);
    return { ...Object.fromEntries(first), version: version.number };
  };
  try {
    return await predict();
  } catch (error) {
    // The version may have been replaced in between. The next one is there by then.
    if (error.status !== 404) throw error;
    return predict();
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Trouble("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

// ---- pictures

/**
 * The photo as it is stored for the network: upright, short side `size`, central square, on white.
 * Null if the browser cannot decode it.
 */
async function storedSquare(photo, size) {
  let bitmap;
  try {
    // The browser turns it upright by itself. The server knows no colour profiles.
    bitmap = await createImageBitmap(photo, { colorSpaceConversion: "none" });
  } catch {
    return null;
  }
  const short = Math.min(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.round(side * size / short));
  const canvas = newCanvas(size, size);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, size, size);
  context.imageSmoothingQuality = "high";
  const [left, top] = [width, height].map((side) => -Math.floor((side - size) / 2));
  context.drawImage(bitmap, left, top, width, height);
  bitmap.close();
  return canvas;
}

function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** One of the views of the square, as the network sees it. */
function viewCanvas(square, [top, left, height, width, mirrored]) {
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  if (mirrored) context.setTransform(-1, 0, 0, 1, width, 0);
  context.drawImage(square, left, top, width, height, 0, 0, width, height);
  return canvas;
}

/** Draws a map of rows, 0 to 1, in colours, stretched over the whole canvas. */
function drawHeat(canvas, map) {
  const small = newCanvas(map[0].length, map.length);
  const grey = new ImageData(small.width, small.height);
  map.flat().forEach((value, index) => {
    grey.data.set([255 * value, 0, 0, 255], 4 * index);
  });
  small.getContext("2d").putImageData(grey, 0, 0);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  // Values are stretched first, and coloured then: between two colours there may be a third.
  const picture = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < picture.data.length; at += 4) {
    picture.data.set(heatColor(picture.data[at] / 255), at);
  }
  context.putImageData(picture, 0, 0);
}

function heatColor(value) {
  const place = value * (HEAT_COLORS.length - 1);
  const below = Math.min(Math.floor(place), HEAT_COLORS.length - 2);
  return HEAT_COLORS[below].map((low, channel) =>
    low + (place - below) * (HEAT_COLORS[below + 1][channel] - low));
}

// ---- what is shown. Names of files and classes become text, never markup.

function element(tag, className, ...children) {
  const made = Object.assign(document.createElement(tag), { className });
  made.append(...children);
  return made;
}

function show(photo) {
  const { name, answer, square } = photo;
  byId("photo-name").textContent = name;
  byId("version").textContent = `version ${answer.version}`;
  byId("classes").replaceChildren(...answer.classes.map((label, rank) =>
    classItem(label, answer.scores[rank])));
  showNote(answer, square);
  byId("stack").parentElement.hidden = !square;
  if (square) showSquare(square);
  const isExplained = Boolean(answer.heat_map && square);
  for (const id of ["heat", "heat-controls", "views-part"]) byId(id).hidden = !isExplained;
  if (isExplained) {
    showHeat(answer);
    showViews(answer, square);
  }
  byId("result").hidden = false;
  byId("history-part").hidden = kept.length < 2;
  byId("history").replaceChildren(...kept.map((other) => historyItem(other, other === photo)));
}

function classItem(label, score) {
  const bar = element("div", "bar");
  bar.style.width = `${100 * score}%`;
  const track = element("div", "track", bar);
  track.ariaHidden = "true"; // the number says it already
  return element("li", "", element("span", "label", label),
    element("span", "score", percent.format(score)), track);
}

function showNote(answer, square) {
  const notes = [
    [!answer.heat_map, "This version was exported without the signature explain: export the model "
      + "again to see the heat map and the ten crops."],
    [!square, "The server reads this photo, but the browser cannot draw it."],
  ];
  byId("note").textContent = notes.filter(([holds]) => holds).map(([, text]) => text).join(" ");
  byId("note").hidden = !byId("note").textContent;
}

function showSquare(square) {
  const shown = byId("square");
  shown.width = square.width;
  shown.height = square.height;
  shown.getContext("2d").drawImage(square, 0, 0);
  shown.ariaLabel = "The photo, cut to the central square";
  byId("caption").textContent =
    `The square that is stored for the network, ${square.width} × ${square.height} pixels, as this `
    + "browser shrinks it.";
}

function showHeat({ heat_map, heat_box: [top, left, height, width], stored_size, classes }) {
  const heat = byId("heat");
  heat.width = width;
  heat.height = height;
  drawHeat(heat, heat_map);
  const share = (pixels) => `${100 * pixels / stored_size}%`;
  Object.assign(heat.style, {
    top: share(top), left: share(left), width: share(width), height: share(height),
  });
  const isEmpty = Math.max(...heat_map.flat()) === 0;
  const what = isEmpty ? `nothing speaks for ${classes[0]}` : `bright is what speaks for ${classes[0]}`;
  heat.ariaLabel = `Heat map: ${what}`;
  byId("caption").append(` Heat map (Grad-CAM) over the central view: ${what}.`);
  blendHeat();
}

function blendHeat() {
  byId("heat").style.opacity = byId("heat-opacity").value / 100;
  byId("heat").style.visibility = byId("heat-shown").checked ? "visible" : "hidden";
  byId("heat-opacity").disabled = !byId("heat-shown").checked;
}

function showViews({ view_boxes, view_classes, view_scores, stored_size }, square) {
  byId("views").replaceChildren(...view_boxes.map((box, index) => {
    const canvas = viewCanvas(square, box);
    canvas.ariaHidden = "true"; // the caption says which part of the photo it is
    return element("li", "", element("figure", "", canvas, element("figcaption", "",
      element("span", "place", viewName(box, stored_size)),
      element("span", "best", view_classes[index]),
      element("span", "score", percent.format(view_scores[index])))));
  }));
}

function viewName([top, left, height, width, mirrored], size) {
  const side = (start, length, first, last) =>
    start === 0 ? first : start + length === size ? last : "";
  const words = [side(top, height, "top", "bottom"), side(left, width, "left", "right")];
  return (words.filter(Boolean).join(" ") || "centre") + (mirrored ? ", mirrored" : "");
}

function historyItem(photo, isShown) {
  const button = element("button", "", photo.name);
  button.type = "button";
  if (photo.square) {
    const small = newCanvas(96, 96);
    small.getContext("2d").drawImage(photo.square, 0, 0, 96, 96);
    small.ariaHidden = "true";
    button.prepend(small);
  }
  if (isShown) button.setAttribute("aria-current", "true");
  button.onclick = () => {
    show(photo);
    // The buttons were made anew; the keyboard stays where it was.
    byId("history").children[kept.indexOf(photo)].firstChild.focus();
  };
  return element("li", "", button);
}

function tell(message) {
  byId("alert").append(element("p", "", message));
}

function sentence(error) {
  if (error instanceof Trouble) return error.message;
  console.error(error);
  return "The server's answer is not what this page expects.";
}

// ---- what the person does

/** Classifies photos, one after another. */
function take(files) {
  byId("alert").replaceChildren();
  if (!files.length) tell("That was no file. Drop, choose or paste a JPEG or PNG file.");
  const { signal } = underWay;
  for (const file of files) queue = queue.then(() => classify(file, signal));
}

async function classify(file, signal) {
  if (signal.aborted) return;
  byId("status").textContent = `Looking at ${file.name} …`;
  let outcome = "";
  try {
    const answer = await explain(file, signal);
    if (!answer.valid) {
      throw new Trouble("This is no photo that the server can read. It reads whole JPEG and PNG files.");
    }
    const square = await storedSquare(file, answer.stored_size ?? STORED_SIZE);
    signal.throwIfAborted();
    const photo = { name: file.name, answer, square };
    kept = [photo, ...kept].slice(0, KEPT_PHOTOS);
    show(photo);
    outcome = `${file.name}: ${answer.classes[0]}, ${percent.format(answer.scores[0])}`;
  } catch (error) {
    if (signal.aborted) return; // it was cleared; there is nothing to tell
    tell(`${file.name}: ${sentence(error)}`);
  }
  byId("status").textContent = outcome;
}

function clear() {
  underWay.abort();
  underWay = new AbortController();
  kept = [];
  for (const id of ["alert", "status", "history", "views", "classes"]) byId(id).replaceChildren();
  for (const id of ["result", "history-part"]) byId(id).hidden = true;
  byId("file").focus();
}

function listen() {
  const drop = byId("drop");
  byId("file").onchange = (event) => {
    take([...event.target.files]);
    event.target.value = ""; // or the same photo could not be chosen again
  };
  // The whole window: beside the zone, the browser would open the photo instead of the page.
  document.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  document.ondragleave = (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  };
  document.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  };
  document.onpaste = (event) => take([...event.clipboardData.files]);
  document.onkeydown = (event) => {
    if (event.key === "Escape") clear();
  };
  byId("clear").onclick = clear;
  byId("heat-shown").onchange = blendHeat;
  byId("heat-opacity").oninput = blendHeat;
}

listen();
servedVersion(new AbortController().signal).catch((error) => tell(sentence(error)));
