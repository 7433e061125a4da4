"""audit.html: the audit for a person who has five minutes.

One page without scripts that loads nothing: pictures are in it as data: URIs, and a policy forbids
the browser the rest. page.html is its template.
"""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence

import jinja2

from data_prep.photos.outcomes import Thumbnail
from data_prep.sources.reference import printable

# What is shown of each; audit.json has more.
THUMBNAILS = 24  # of a kind
SHOWN_GROUPS = 50
SHOWN_PHOTOS = 4  # of a group, in each split
SHOWN_SIZES = 20
SHOWN_CLASSES = 10  # the smallest, and as many of the largest

_LEVEL_WORDS = {"problem": "Problem: ", "look": "Worth a look: ", "fine": "Fine: "}

# Caption, heads and rows; the first column names a row.
_Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]


def render(report: Mapping, thumbnails: Mapping[str, Sequence[tuple[str, Thumbnail]]]) -> str:
    """Return the page.

    Args:
        report: the content of audit.json, see `data_prep.audit`.
        thumbnails: by repair or reason, at most `THUMBNAILS` pairs of split and picture, in the
            order in which they are shown.
    """
    environment = jinja2.Environment(
        autoescape=True,
        keep_trailing_newline=True,
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["text"] = printable
    groups = report["duplicates"]["groups"]
    sizes = report["sizes"]
    most = max(bucket["photos"] for bucket in sizes["short_side"])
    return environment.get_template("page.html").render(
        findings=report["findings"],
        level_words=_LEVEL_WORDS,
        totals=list(_totals(report["splits"])),
        duplicates=[_group_row(group, report["classes"]) for group in groups[:SHOWN_GROUPS]],
        groups_left_out=report["duplicates"]["groups_left_out"] + len(groups[SHOWN_GROUPS:]),
        pictures=_pictures(report["splits"], thumbnails),
        classes=list(_extreme_classes(report)),
        all_classes=_all_classes(report),
        sizes=sizes,
        sides=[
            (_side(bucket), bucket["photos"], bucket["photos"] / max(1, most))
            for bucket in sizes["short_side"]
        ],
        frequent=[
            (f"{size['width']:,} x {size['height']:,}", size["photos"])
            for size in sizes["most_frequent"][:SHOWN_SIZES]
        ],
    )


def _totals(splits: Mapping) -> Iterator[_Table]:
    names = ("photos", "records", "rejected")
    rows = [(split, *(counts[name] for name in names)) for split, counts in splits.items()]
    yield "Each photo became a record or was rejected", ("split", *names), rows
    for caption, name in (
        ("Rejected, by reason", "rejected_by_reason"),
        ("Repaired, by what was done", "repairs"),
        ("Besides, photos with", "notes"),
    ):
        kinds = sorted({kind for counts in splits.values() for kind in counts[name]})
        rows = [
            (_words(kind), *(counts[name].get(kind, 0) for counts in splits.values()))
            for kind in kinds
        ]
        if rows:
            yield caption, ("kind", *splits), rows


def _extreme_classes(report: Mapping) -> Iterator[_Table]:
    split = next(iter(report["splits"]))
    order = sorted(report["classes"], key=lambda entry: (entry["records"][split], entry["label"]))
    most = max(1, order[-1]["records"][split]) if order else 1
    largest = order[SHOWN_CLASSES:][-SHOWN_CLASSES:][::-1]
    for title, entries in (("smallest", order[:SHOWN_CLASSES]), ("largest", largest)):
        rows = [
            (entry["wnid"], entry["name"], count := entry["records"][split], count / most)
            for entry in entries
        ]
        if rows:
            caption = f"The {title} classes, by records in {split}"
            yield caption, ("class", "name", "records", ""), rows


def _all_classes(report: Mapping) -> _Table:
    columns = [(split, name) for split in report["splits"] for name in ("records", "rejected")]
    heads = ("wnid", "name", "label")
    rows = [
        (*(entry[name] for name in heads), *(entry[name][split] for split, name in columns))
        for entry in report["classes"]
    ]
    return "All classes, by label", heads + tuple(map(", ".join, columns)), rows


def _group_row(group: Mapping, classes: Sequence[Mapping]) -> tuple[str, list[str]]:
    copies = [f"{count:,} in {split}" for split, count in group["photos"].items()]
    if group["labels_differ"]:
        copies.append("of more than one class")
    total, lines = sum(group["photos"].values()), []
    for split in group["photos"]:
        photos = [photo for photo in group["listed"] if photo["split"] == split]
        for photo in photos[:SHOWN_PHOTOS]:
            lines.append(f"{split}: {photo['key']} (class {classes[photo['label']]['wnid']})")
    if len(lines) < total:
        lines.append(f"and {total - len(lines):,} more")
    return ", ".join(copies), lines


def _pictures(
    splits: Mapping, thumbnails: Mapping[str, Sequence[tuple[str, Thumbnail]]]
) -> list[tuple[str, list[tuple[str, str]], int]]:
    """Return title, names with pictures, and the number not shown; what was rejected is first."""
    groups = []
    for what, shown in thumbnails.items():
        rejected = sum(split["rejected_by_reason"].get(what, 0) for split in splits.values())
        count = rejected + sum(split["repairs"].get(what, 0) for split in splits.values())
        title = f"{'Rejected' if rejected else 'Repaired'}: {_words(what)}"
        pictures = [
            (f"{split}: {thumbnail.key}", base64.b64encode(thumbnail.jpeg).decode())
            for split, thumbnail in shown
        ]
        groups.append((not rejected, what, (title, pictures, max(0, count - len(shown)))))
    return [group for _, _, group in sorted(groups)]


def _side(bucket: Mapping) -> str:
    if bucket["below"] is None:
        return f"{bucket['from']:,} and more"
    return f"{bucket['from']:,} to {bucket['below'] - 1:,}"


def _words(kind: str) -> str:
    return kind.replace("_", " ")
