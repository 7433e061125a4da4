import base64
import hashlib
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from data_prep import records
from data_prep.audit import Audit
from data_prep.audit import page as audit_page
from data_prep.photos.outcomes import Outcome, Thumbnail
from data_prep.sources.reference import Reference

EVIL = "<script>alert('1')</script>\"&amp;"
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """A page as a browser has it: elements with attributes and text, all tags closed."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.elements, self._open = [], []  # each element: tag, attributes, text inside
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def all(self, tag):
        return [element for element in self.elements if element[0] == tag]

    def texts(self, tag):
        return [text for _, _, text in self.all(tag)]


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    output = io.BytesIO()
    Image.fromarray(pixels).save(output, "JPEG")
    return output.getvalue()


def rows_of(split, count, *, kinds=(), reason="", label=0, content="", key="a/{:04d}.jpg"):
    """`count` photos of one kind; equal ones where a content is given."""
    for index in range(count):
        name = key.format(index)
        digest = hashlib.blake2b((content or split + name).encode(), digest_size=16).digest()
        yield (
            Reference(split, name, "/photos", 0, 1, name, label, 0),
            Outcome(digest, 500, 375, reason, kinds, (), 0 if reason else 9),
        )


def rendered(photos, thumbnails=(), classes=("cat", "dog")):
    with Audit(tuple(records.ClassName(name, name.upper()) for name in classes)) as audit:
        for photo in photos:
            audit.add(*photo)
        audit.add_thumbnails("train", thumbnails)
        return Page(audit.to_files()["audit.html"].decode())


@pytest.fixture(scope="module")
def page():
    """Return a page with something in every section, each of its tags closed."""
    photos = [
        *rows_of("train", 30, kinds=("cmyk_to_rgb",)),
        *rows_of("train", 2, reason="truncated", key="b/{}.jpg"),
        *rows_of("train", 1, label=1, content="same", key=EVIL + "{}"),
        *rows_of("validation", 5, content="same", key="c/{}.jpg"),
    ]
    thumbnails = [
        *(Thumbnail(f"a/{index:04d}.jpg", "cmyk_to_rgb", picture(index)) for index in range(29)),
        Thumbnail("b/0.jpg", "truncated", b""),
        Thumbnail(EVIL, "truncated", picture(0)),
    ]
    return rendered(photos, thumbnails, classes=("cat", EVIL))


def test_it_needs_nothing_else(page):
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _, _ in page.elements}
    for _, attributes, _ in page.elements:
        assert attributes.get("src", "data:").startswith("data:")
        assert not [name for name in attributes if name in ("href", "srcset") or name[:2] == "on"]
    policies = [a["content"] for _, a, _ in page.all("meta") if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_names_are_text_and_never_markup(page):
    assert "<script" not in page.source
    assert "alert('1')" not in page.source
    wnids, cells = page.texts("th"), page.texts("td")
    assert EVIL in wnids  # of the class, as a person typed it
    assert EVIL.upper() in cells
    assert any(f"train: {EVIL}0 (class {EVIL})" in cell for cell in cells)
    assert f"train: {EVIL}" in page.texts("figcaption")
    assert f"train: {EVIL}" in [attributes["alt"] for _, attributes, _ in page.all("img")]


def test_findings_are_said_first_with_what_to_do(page):
    assert page.texts("h1") == ["Audit of the photos"]
    assert page.texts("h2")[0] == "What was found"
    first = page.texts("li")[0]
    assert first.startswith("Problem: 1 photo is both in train and in validation: 1 of train's 31")
    assert "Remove the copies" in first


def test_thumbnails_can_be_seen(page):
    shown = page.all("img")
    assert len(shown) == audit_page.THUMBNAILS + 1
    for _, attributes, _ in shown:
        kind, data = attributes["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert image.size == (60, 40)
    boxes = [text for _, a, text in page.all("div") if a.get("class") == "nothing"]
    assert boxes == ["nothing can be shown"]
    # The pictures stand by their own names: the two first are those of the seeds 0 and 1.
    repaired = {a["alt"]: base64.b64decode(a["src"].split(",")[1]) for _, a, _ in shown}
    assert repaired["train: a/0001.jpg"] == picture(1)
    # They are the first by key, and the rest is counted.
    assert page.texts("h3") == ["Rejected: truncated", "Repaired: cmyk to rgb"]
    names = page.texts("figcaption")
    expected = [f"train: a/{index:04d}.jpg" for index in range(audit_page.THUMBNAILS)]
    assert names == [f"train: {EVIL}", "train: b/0.jpg", *expected]
    assert "6 more are not shown." in page.texts("p")  # 30 were repaired


def test_it_can_be_listened_to(page):
    assert page.all("html")[0][1]["lang"] == "en"
    assert all(attributes["alt"] for _, attributes, _ in page.all("img"))
    assert {attributes.get("scope") for _, attributes, _ in page.all("th")} == {"row", "col"}
    assert len(page.texts("caption")) == len(page.all("table")) > 5
    viewports = [a["content"] for _, a, _ in page.all("meta") if a.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]


def test_all_classes_are_in_a_table_to_unfold():
    names = [f"class{index:03d}" for index in range(60)]
    photos = [
        photo
        for label in range(60)
        for photo in rows_of("train", label + 1, label=label, key=f"{label}/{{}}")
    ]
    page = rendered(photos, classes=names)
    assert page.texts("summary") == ["All 60 classes"]
    (unfolded,) = page.texts("details")
    assert all(name in unfolded for name in names)
    smallest, largest = (text for text in page.texts("table") if "classes, by records" in text)
    assert [name for name in names if name in smallest] == names[:10]
    assert [name for name in names if name in largest] == names[-10:]
    widths = [a["style"] for _, a, _ in page.all("span") if a.get("class") == "bar"]
    assert widths[:2] == ["width: calc(0.017 * var(--room))", "width: calc(0.033 * var(--room))"]
    assert widths[10] == "width: calc(1.000 * var(--room))"


def test_duplicates_are_listed_and_the_rest_is_counted():
    shown = audit_page.SHOWN_GROUPS
    photos = [
        photo
        for group in range(shown + 3)
        for photo in rows_of("train", 6, content=f"same {group}", key=f"{group}/{{}}.jpg")
    ]
    page = rendered(photos)
    rows = [text for text in page.texts("tr") if "6 in train" in text]
    assert len(rows) == shown
    assert all("/3.jpg" in row and "/4.jpg" not in row for row in rows)
    assert all("and 2 more" in row for row in rows)
    assert "3 more groups are not shown; audit.json has more." in page.texts("p")


def test_sizes_are_shown():
    page = rendered(rows_of("train", 1234))
    rows = page.texts("tr")
    assert "500 x 3751,234" in rows  # two cells
    assert "320 to 3831,234" in rows
    assert "4,096 and more0" in rows


def test_a_page_without_faults_says_so():
    photos = [*rows_of("train", 3), *rows_of("train", 3, label=1, key="b/{}")]
    photos += [*rows_of("validation", 3), *rows_of("validation", 3, label=1, key="b/{}")]
    page = rendered(photos)
    assert all(text.startswith("Fine: ") for text in page.texts("li"))
    assert "No two records are of the same file." in page.texts("p")
    assert "There is none to show." in page.texts("p")
