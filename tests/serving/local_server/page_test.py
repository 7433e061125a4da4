import dataclasses
import json
import shutil
import urllib.parse

import browser
import cv2
import numpy as np
import pytest
import served
import stand_in
from browser import active, all_of, by_id, give, press, text_of, texts_of, wait_for
from PIL import Image, ImageCms
from served import serving
from tensorflow.core.protobuf import saved_model_pb2

from data_prep import records
from data_prep.photos import images
from keras_alexnet.saved_model import signatures

pytestmark = pytest.mark.slow

NAME = """birds & "bees" <b>'é'"""
PATH = "/v1/models/" + urllib.parse.quote(NAME, safe="!'()*")
LIMIT = 1 << 20
INPUT_SIZE = stand_in.PROFILE.input_size


@pytest.fixture(scope="module")
def run():
    """Its class names would load a picture, and fail and tell so, if they became markup."""
    names = (f"<img src=x onerror=alert({i})>, klasse {i}" for i in range(7))
    classes = tuple(records.ClassName(f"n{i:08d}", name) for i, name in enumerate(names))
    return dataclasses.replace(stand_in.trained_run(), classes=classes)


@pytest.fixture(scope="module")
def model_dir(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    signatures.save(run, str(folder / NAME / "1"))
    return folder / NAME


@pytest.fixture(scope="module")
def server(model_dir):
    with serving(model_dir, grpc_port=-1, max_body_bytes=LIMIT) as server:
        yield server


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def opened(driver, server):
    return open_page(driver, server)


def open_page(driver, server):
    """Return the browser, with the page in it, just loaded."""
    browser.resize(driver, 1000, 1600)
    browser.forget_logs(driver)
    driver.get(server["http"])
    wait_for(driver, lambda: text_of(driver, "version").startswith("version"))
    return driver


def classified(driver, name, photo, way="drop"):
    """Give a photo and wait until its answer is shown."""
    give(driver, (name, photo), way=way)
    shows(driver, "status", f"{name}: ")


def shows(driver, part, text):
    wait_for(driver, lambda: text in text_of(driver, part))


def asked(server, photo, signature="explain", path=PATH):
    """Return the REST API's answer to a photo, without the page."""
    body = {"signature_name": signature, "instances": [served.b64(photo)]}
    _, answer, _ = served.ask(served.Server(server["http"], ""), f"{path}:predict", body)
    return json.loads(answer)["predictions"][0]


def assert_classes_shown(driver, answer):
    assert len(answer["classes"]) == 5
    assert texts_of(driver, "#classes .label") == answer["classes"]
    percents = [f"{100 * score:.1f}%" for score in answer["scores"]]
    assert texts_of(driver, "#classes .score") == percents
    widths = driver.execute_script(
        "return Array.from(document.querySelectorAll('#classes .bar'),"
        " (bar) => bar.offsetWidth / bar.parentElement.clientWidth)"
    )
    np.testing.assert_allclose(widths, answer["scores"], atol=0.005)  # whole pixels


def test_dropped_photo(opened, server):
    photo = stand_in.photo(300, 400, seed=1)
    assert text_of(opened, "version") == "version 1"
    assert texts_of(opened, "h1") == [NAME]
    assert text_of(opened, "photo-name") == ""
    classified(opened, "<svg onload=alert(1)>.jpg", photo)
    urls = browser.requested_urls(opened)
    answer = asked(server, photo)
    assert_classes_shown(opened, answer)
    assert text_of(opened, "photo-name") == "<svg onload=alert(1)>.jpg"
    assert text_of(opened, "alert") == ""
    assert answer["classes"][0] in text_of(opened, "status")
    assert answer["classes"][0] in text_of(opened, "caption")
    for part, texts in (
        ("best", answer["view_classes"]),
        ("score", [f"{100 * score:.1f}%" for score in answer["view_scores"]]),
    ):
        assert texts_of(opened, f"#views .{part}") == texts
    assert all_of(opened, "img, svg") == []
    assert browser.console(opened) == []
    # Nothing but the server was asked, for the metadata also when the page was opened.
    network = [url for url in urls if not url.startswith(("data:", "blob:"))]
    paths = ["/", f"{PATH}/metadata", f"{PATH}/metadata", f"{PATH}/versions/1:predict"]
    assert network == [server["http"] + path for path in paths]


def test_ten_crops_are_those_of_the_network(opened):
    pixels = stand_in.pixels(256, 256, seed=2)
    classified(opened, "photo.png", stand_in.encoded(pixels, "PNG"))
    canvases = all_of(opened, "#views canvas")
    places = texts_of(opened, "#views .place")
    five = ["top left", "top right", "bottom left", "bottom right", "centre"]
    assert places == five + [f"{place}, mirrored" for place in five]
    end = 256 - INPUT_SIZE
    corners = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    crops = [pixels[y : y + INPUT_SIZE, x : x + INPUT_SIZE] for y, x in corners]
    crops += [crop[:, ::-1] for crop in crops]
    for canvas, crop in zip(canvases, crops, strict=True):
        shown = browser.canvas_pixels(opened, canvas)
        np.testing.assert_array_equal(shown[..., :3], crop)
        assert (shown[..., 3] == 255).all()


def test_stored_square_is_upright_cut_and_on_white(opened):
    """Shrink as the data job does, by Pillow and OpenCV, but for the browser's way to shrink."""
    pixels = stand_in.pixels(600, 801, seed=3)
    lying = Image.fromarray(pixels)
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = images.resize_and_crop(np.rot90(pixels, -1).copy(), 256)
    opacity = np.linspace(0, 255, 801, dtype=np.uint8)
    opacity = np.broadcast_to(opacity[:, np.newaxis], (600, 801, 1))
    on_white = (pixels * (opacity / 255) + 255 - opacity).astype(np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"?"), (b"bXYZ", b"rXYZ"), (b"?", b"bXYZ")):
        profile = profile.replace(old, new, 1)  # red and blue change places, for who heeds it
    for name, photo, square in (
        ("turned.jpg", stand_in.encoded(lying, quality=95, exif=exif), turned),
        (
            "odd colours.jpg",
            stand_in.encoded(pixels, quality=95, icc_profile=profile),
            images.resize_and_crop(pixels, 256),
        ),
        (
            "clear.png",
            stand_in.encoded(np.concatenate([pixels, opacity], axis=2), "PNG"),
            images.resize_and_crop(on_white, 256),
        ),
    ):
        classified(opened, name, photo)
        shown = browser.canvas_pixels(opened, by_id(opened, "square"))[..., :3]
        assert np.abs(shown.astype(int) - square).mean() < 1.5, name


def test_heat_map(opened, server):
    drawn = []
    for seed in (1, 2):
        photo = stand_in.photo(256, 256, seed=seed)
        classified(opened, f"{seed}.jpg", photo)
        answer = asked(server, photo)
        heat = browser.canvas_pixels(opened, by_id(opened, "heat")).astype(float)
        assert heat.shape[:2] == (INPUT_SIZE, INPUT_SIZE)
        assert (heat[..., 3] == 255).all()
        brightness = heat[..., :3] @ [0.299, 0.587, 0.114]
        expected = cv2.resize(np.array(answer["heat_map"]), (INPUT_SIZE, INPUT_SIZE))
        assert np.corrcoef(brightness.ravel(), expected.ravel())[0, 1] > 0.98
        drawn.append(brightness)
        place = [by_id(opened, "heat").rect[key] for key in ("y", "x", "height", "width")]
        whole = by_id(opened, "square").rect
        place = np.subtract(place, [whole["y"], whole["x"], 0, 0]) / whole["width"] * 256
        np.testing.assert_allclose(place, answer["heat_box"], atol=0.5)
    assert np.abs(drawn[0] - drawn[1]).max() > 30


def test_keyboard_alone(opened, server, tmp_path):
    photo = stand_in.photo(300, 400, seed=4)
    (tmp_path / "chosen.jpg").write_bytes(photo)
    press(opened, "TAB")
    assert active(opened).accessible_name == "Choose or drop a photo"
    assert by_id(opened, "drop").value_of_css_property("outline-style") == "solid"
    # Both keys would open the dialog, which has no window here.
    opened.execute_script(
        "window.dialogs = 0; document.addEventListener('click', (event) => {"
        "if (event.target.id === 'file') { dialogs += 1; event.preventDefault(); } })"
    )
    press(opened, "ENTER", "SPACE")
    assert opened.execute_script("return dialogs") == 2
    active(opened).send_keys(str(tmp_path / "chosen.jpg"))
    shows(opened, "status", "chosen.jpg: ")
    assert_classes_shown(opened, asked(server, photo))
    names, heat = [], by_id(opened, "heat")
    for _ in range(3):
        press(opened, "TAB")
        names.append(active(opened).accessible_name)
        if names[-1] == "Heat map":
            assert heat.value_of_css_property("visibility") == "visible"
            press(opened, "SPACE")
            assert heat.value_of_css_property("visibility") == "hidden"
            press(opened, "SPACE")
        if names[-1] == "Opacity":
            assert heat.value_of_css_property("opacity") == "0.6"
            press(opened, "END")
            assert heat.value_of_css_property("opacity") == "1"
    assert names == ["Clear Esc", "Heat map", "Opacity"]
    press(opened, "ESCAPE")
    assert not by_id(opened, "result").is_displayed()
    assert active(opened) == by_id(opened, "file")


def test_last_ten_photos(opened, server):
    photos = {f"{number}.jpg": stand_in.photo(seed=number) for number in range(11)}
    assert not by_id(opened, "history-part").is_displayed()
    assert give(opened, *photos.items())  # or the browser would leave the page for the photo
    shows(opened, "status", "10.jpg: ")
    buttons = all_of(opened, "#history button")
    assert texts_of(opened, "#history button") == [f"{number}.jpg" for number in range(10, 0, -1)]
    opened.execute_script("arguments[0].focus()", buttons[8])
    press(opened, "TAB", "ENTER")
    assert text_of(opened, "photo-name") == "1.jpg"
    assert_classes_shown(opened, asked(server, photos["1.jpg"]))
    assert active(opened).text == "1.jpg"
    assert texts_of(opened, "#history button[aria-current]") == ["1.jpg"]
    by_id(opened, "clear").click()
    assert all_of(opened, "#history button") == []


def test_cleared_while_under_way(opened):
    """A photo, Escape, and another photo before the first one can be answered."""
    opened.execute_script(
        """
        const drop = (name) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(["no photo"], name));
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        };
        drop("first"); drop("second");
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        drop("third");
        """
    )
    shows(opened, "alert", "third: ")
    assert "first" not in text_of(opened, "alert")
    assert "second" not in text_of(opened, "alert")


def test_what_is_no_photo(opened, server):
    good = stand_in.photo(seed=6)
    photos = {"junk": b"no photo", "good": good, "cut": good[:200], "large": bytes(LIMIT)}
    give(opened, *photos.items())
    shows(opened, "alert", "large: ")
    (alert,) = all_of(opened, "[role=alert]")
    junk, cut, large = alert.text.splitlines()
    assert junk.startswith("junk: This is no photo that the server can read.")
    assert cut.startswith("cut: This is no photo that the server can read.")
    assert large.startswith(f"large: The server says: a body of at most {LIMIT} bytes is read")
    assert alert.aria_role == "alert"
    assert_classes_shown(opened, asked(server, good))
    give(opened, way="paste")
    shows(opened, "alert", "That was no file.")
    classified(opened, "pasted.png", good, way="paste")
    assert text_of(opened, "alert") == ""


def test_policy_forbids_the_rest(opened, server):
    """Try what a hole in the page would: another host, a foreign script, text as markup."""
    elsewhere = server["http"].replace("127.0.0.1", "localhost")
    refused = opened.execute_async_script(
        """
        const [url, done] = arguments;
        const refused = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          refused.push(event.effectiveDirective);
          if (refused.length === 3) done(refused.sort());
        });
        fetch(url).catch(() => {});
        document.body.append(Object.assign(new Image(), { src: url }));
        try { document.body.innerHTML = "<b>"; } catch {}
        setTimeout(() => done(refused), 20000);
        """,
        elsewhere,
    )
    assert refused == ["connect-src", "img-src", "require-trusted-types-for"]


def test_narrow_window_and_less_motion(opened):
    browser.resize(opened, 320, 800)
    classified(opened, f"{'long' * 40}.jpg", stand_in.photo(seed=8))
    classified(opened, "short.jpg", stand_in.photo(seed=9))
    root = "document.documentElement"
    widths = opened.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
    assert widths[0] == widths[1] <= 320
    (bar, *_) = all_of(opened, ".bar")
    for motion, name in (("no-preference", "grow"), ("reduce", "none")):
        browser.prefer(opened, prefers_reduced_motion=motion)
        assert bar.value_of_css_property("animation-name") == name
    browser.prefer(opened)


def test_version_that_is_gone_by_the_time_it_is_asked(opened, server):
    """The first request goes to a version that is not there; the server's answer is its own."""
    opened.execute_script(
        """
        const fetched = window.fetch;
        window.fetch = (url, options) => {
          if (!url.endsWith("/versions/1:predict")) return fetched(url, options);
          window.fetch = fetched;
          return fetched(url.replace("/1:", "/99:"), options);
        };
        """
    )
    photo = stand_in.photo(seed=10)
    classified(opened, "photo.jpg", photo)
    assert_classes_shown(opened, asked(server, photo))
    assert any("/versions/99:predict" in url for url in browser.requested_urls(opened))


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ("<html>", 502, "The server's answer cannot be read (HTTP 502)."),
        ('{"error": "<b>busy</b>"}', 503, "The server says: <b>busy</b>"),
        ("{}", 200, "The server's answer is not what this page expects."),
        (
            '{"model_spec": {}, "metadata": {"signature_def": {"signature_def": {}}}}',
            200,
            "The model has no signature explain or serving_default; this page needs one.",
        ),
        (None, None, "No answer within 120 seconds."),
    ],
)
def test_answers_that_this_server_does_not_give(driver, server, answer, status, message):
    """A server between may answer so, for example; None: none within the time."""
    script = (
        f"window.fetch = async () => new Response({json.dumps(answer)}, {{status: {status}}});"
        if status
        else "AbortSignal.timeout = () => AbortSignal.abort(new DOMException('', 'TimeoutError'));"
    )
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        driver.get(server["http"])
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    wait_for(driver, lambda: text_of(driver, "alert") == message)
    give(driver, ("photo.jpg", b""))
    shows(driver, "alert", f"photo.jpg: {message}")


def test_next_version_without_explain_and_end_of_the_server(driver, model_dir, tmp_path):
    """An export from before there was the signature explain still names the classes."""
    shutil.copytree(model_dir / "1", tmp_path / "birds" / "1")
    shutil.copytree(model_dir / "1", tmp_path / "next")
    file = tmp_path / "next" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    del saved.meta_graphs[0].signature_def["explain"]
    file.write_bytes(saved.SerializeToString())
    photo = stand_in.photo(seed=11)
    with serving(tmp_path / "birds", grpc_port=-1, poll_seconds=0.05) as server:
        open_page(driver, server)
        file.parent.rename(tmp_path / "birds" / "2")
        there = served.Server(server["http"], "")
        path = "/v1/models/birds/versions/2/metadata"
        wait_for(driver, lambda: served.ask(there, path)[0] == 200)
        classified(driver, "photo.jpg", photo)
        assert text_of(driver, "version") == "version 2"
        assert_classes_shown(driver, asked(server, photo, "serving_default", "/v1/models/birds"))
    assert "without the signature explain: export the model again" in text_of(driver, "note")
    assert by_id(driver, "square").is_displayed()
    for part in ("heat", "heat-controls", "views-part"):
        assert not by_id(driver, part).is_displayed()
    assert browser.console(driver) == []
    address = server["http"].removeprefix("http://")
    told = f"late.jpg: The server at {address} does not answer."

    def is_told():
        # A thread of the ended server says on each open connection that it is ending.
        give(driver, ("late.jpg", photo))
        shows(driver, "alert", "late.jpg: The server ")
        return told in text_of(driver, "alert")

    wait_for(driver, is_told)
    assert text_of(driver, "photo-name") == "photo.jpg"
