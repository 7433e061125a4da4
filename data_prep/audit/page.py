"""audit.html: the audit for a person who has five minutes.

One page without scripts that loads nothing: pictures are in it as data: URIs, and a policy forbids
the browser the rest. File and class names are other people's, so each text is escaped where it is
put into the page; only `_Html` passes as it is.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from data_prep.photos.outcomes import Thumbnail
from data_prep.sources.reference import printable

# What is shown of each; audit.json has more.
THUMBNAILS = 24  # of a kind
SHOWN_GROUPS = 50
SHOWN_PHOTOS = 4  # of a group, in each split
SHOWN_SIZES = 20
SHOWN_CLASSES = 10  # the smallest, and as many of the largest

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7ebb; --room: 16rem; }
body { font: 1rem/1.45 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--line); font-weight: 400; overflow-wrap: anywhere; }
thead th.number { white-space: normal; }
thead th { font-weight: 600; overflow-wrap: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: block; height: .8rem; margin-top: .3rem; background: var(--bar); }
.findings { list-style: none; padding: 0; }
.findings li { border-left: .4rem solid #3a8f4d; padding: .3rem .8rem; margin: .5rem 0; }
.findings .problem { border-color: #c62828; }
.findings .look { border-color: #d08a00; }
.findings p { margin: .2rem 0; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem;
  list-style: none; padding: 0; }
.photos figure { margin: 0; }
.photos img { max-width: 100%; }
.nothing { display: grid; place-items: center; box-sizing: border-box; width: 6rem; height: 6rem;
  padding: .4rem; border: 1px dashed; text-align: center; font-size: .8rem; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; }
section { overflow-x: auto; }
tbody tr > :nth-child(-n + 2) { min-width: 6rem; }
@media (max-width: 40rem) { :root { --room: 5rem; }
  th, td { padding-right: .4rem; font-size: .85rem; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LEVEL_WORDS = {"problem": "Problem: ", "look": "Worth a look: ", "fine": "Fine: "}


_Pictures = Mapping[str, Sequence[tuple[str, Thumbnail]]]


class _Html(str):
    """Text that is markup already."""


def render(report: Mapping, thumbnails: _Pictures) -> str:
    """The page.

    Args:
        report: the content of audit.json, see `data_prep.audit`.
        thumbnails: split and picture, in the order in which they are shown, at most `THUMBNAILS`,
            by repair or reason.
    """
    sections = (
        ("What was found", _findings(report["findings"])),
        ("Photos and records", _totals(report)),
        ("Exact duplicates", _duplicates(report)),
        ("Rejected and repaired photos", _thumbnails(report, thumbnails)),
        ("Classes", _classes(report)),
        ("Sizes of the originals", _sizes(report["sizes"])),
    )
    body = "".join(
        f"<section>\n<h2>{title}</h2>\n{content}</section>\n" for title, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Audit of the photos</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>Audit of the photos</h1>\n{body}</main>\n</body>\n</html>\n"
    )


def _findings(findings: Iterable[Mapping]) -> _Html:
    items = (
        f'<li class="{entry["level"]}"><p><strong>{_LEVEL_WORDS[entry["level"]]}</strong>'
        f"{_text(entry['text'])}</p>"
        + (f"<p>{_text(entry['advice'])}</p>" if entry["advice"] else "")
        + "</li>\n"
        for entry in findings
    )
    return _Html(f'<ul class="findings">\n{"".join(items)}</ul>\n')


def _totals(report: Mapping) -> _Html:
    splits = report["splits"]
    names = ("photos", "records", "rejected")
    tables = [
        _table(
            "Each photo became a record or was rejected",
            ("split", *names),
            [(split, *(counts[name] for name in names)) for split, counts in splits.items()],
        )
    ]
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
            tables.append(_table(caption, ("kind", *splits), rows))
    return _Html("".join(tables))


def _classes(report: Mapping) -> _Html:
    classes, splits = report["classes"], list(report["splits"])
    order = sorted(classes, key=lambda entry: (entry["records"][splits[0]], entry["label"]))
    smallest, largest = order[:SHOWN_CLASSES], order[SHOWN_CLASSES:][-SHOWN_CLASSES:]
    most = order[-1]["records"][splits[0]] if order else 0
    shown = [("smallest", smallest), ("largest", largest[::-1])]
    tables = [
        _table(
            f"The {title} classes, by records in {splits[0]}",
            ("class", "name", "records", ""),
            [
                (entry["wnid"], entry["name"], count, _bar(count, most))
                for entry in entries
                for count in (entry["records"][splits[0]],)
            ],
        )
        for title, entries in shown
        if entries
    ]
    columns = [(split, name) for split in splits for name in ("records", "rejected")]
    heads = ("wnid", "name", "label")
    rows = [
        (*(entry[name] for name in heads), *(entry[name][split] for split, name in columns))
        for entry in classes
    ]
    table = _table("All classes, by label", heads + tuple(map(", ".join, columns)), rows)
    return _Html(
        f"{''.join(tables)}<details>\n<summary>All {len(classes):,} classes</summary>\n"
        f"{table}</details>\n"
    )


def _duplicates(report: Mapping) -> _Html:
    duplicates = report["duplicates"]
    if not duplicates["groups"]:
        return _Html("<p>No two records are of the same file.</p>\n")
    shown = duplicates["groups"][:SHOWN_GROUPS]
    left_out = duplicates["groups_left_out"] + len(duplicates["groups"]) - len(shown)
    rows = [_group_row(group, report) for group in shown]
    more = f"<p>{left_out:,} more groups are not shown; audit.json has more.</p>\n"
    return _Html(
        "<p>Photos whose files are the same to the last byte. Copies that were made smaller or "
        "saved anew are not found.</p>\n"
        + _table("Those across splits first", ("copies", "photos"), rows)
        + (more if left_out else "")
    )


def _group_row(group: Mapping, report: Mapping) -> tuple[object, ...]:
    what = [f"{count:,} in {split}" for split, count in group["photos"].items()]
    if group["labels_differ"]:
        what.append("of more than one class")
    total, lines = sum(group["photos"].values()), []
    for split in group["photos"]:
        photos = [photo for photo in group["listed"] if photo["split"] == split]
        for photo in photos[:SHOWN_PHOTOS]:
            wnid = report["classes"][photo["label"]]["wnid"]
            lines.append(_text(f"{split}: {photo['key']} (class {wnid})"))
    if len(lines) < total:
        lines.append(f"and {total - len(lines):,} more")
    return ", ".join(what), _Html("<br>".join(lines))


def _sizes(sizes: Mapping) -> _Html:
    most = max(bucket["photos"] for bucket in sizes["short_side"])
    sides = [
        (
            f"{bucket['from']:,} and more"
            if bucket["below"] is None
            else f"{bucket['from']:,} to {bucket['below'] - 1:,}",
            bucket["photos"],
            _bar(bucket["photos"], most),
        )
        for bucket in sizes["short_side"]
    ]
    frequent = sizes["most_frequent"][:SHOWN_SIZES]
    rows = [(f"{size['width']:,} x {size['height']:,}", size["photos"]) for size in frequent]
    unknown = (
        f" Of {sizes['unknown']:,} the size could not be found out." if sizes["unknown"] else ""
    )
    return _Html(
        "<p>Photos whose short side is less than what is stored were enlarged: they hold less "
        f"than they seem to.{unknown}</p>\n"
        + _table("The short side, upright", ("pixels", "photos", ""), sides)
        + _table(
            f"The most frequent of {sizes['distinct']:,} sizes",
            ("width x height", "photos"),
            rows,
        )
    )


def _thumbnails(
    report: Mapping, thumbnails: Mapping[str, Sequence[tuple[str, Thumbnail]]]
) -> _Html:
    if not thumbnails:
        return _Html("<p>There is none to show.</p>\n")
    splits = report["splits"].values()
    groups: list[tuple[bool, str, str]] = []
    for what, shown in thumbnails.items():
        rejected = sum(split["rejected_by_reason"].get(what, 0) for split in splits)
        count = rejected + sum(split["repairs"].get(what, 0) for split in splits)
        left_out = max(0, count - len(shown))
        title = f"{'Rejected' if rejected else 'Repaired'}: {_words(what)}"
        more = f"<p>{left_out:,} more are not shown.</p>\n" if left_out else ""
        pictures = "".join(_figure(split, thumbnail) for split, thumbnail in shown)
        content = f'<h3>{_text(title)}</h3>\n<ul class="photos">\n{pictures}</ul>\n{more}'
        groups.append((not rejected, what, content))
    return _Html("".join(content for _, _, content in sorted(groups)))


def _figure(split: str, thumbnail: Thumbnail) -> str:
    name = _text(f"{split}: {thumbnail.key}")
    if thumbnail.jpeg:
        data = base64.b64encode(thumbnail.jpeg).decode()
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="{name}" loading="lazy">'
    else:
        picture = '<div class="nothing">nothing can be shown</div>'
    return f"<li><figure>{picture}<figcaption>{name}</figcaption></figure></li>\n"


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> _Html:
    """A table whose first column names its rows. Text is escaped, numbers are set to the right."""
    head = "".join(map(_head, heads, rows[0])) if rows else ""
    lines = "".join(
        f'<tr><th scope="row"{_align(first)}>{_text(first)}</th>{"".join(map(_cell, rest))}</tr>\n'
        for first, *rest in rows
    )
    return _Html(
        f"<table>\n<caption>{_text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{lines}</tbody>\n</table>\n"
    )


def _head(name: str, example: object) -> str:
    return f'<th scope="col"{_align(example)}>{_text(name)}</th>' if name else "<td></td>"


def _cell(value: object) -> str:
    return f"<td{_align(value)}>{_text(value)}</td>"


def _align(value: object) -> str:
    return ' class="number"' if isinstance(value, int) else ""


def _bar(count: int, most: int) -> _Html:
    """A bar for the eye alone: the number stands beside it."""
    share = count / most if most else 0
    return _Html(f'<span class="bar" style="width: calc({share:.3f} * var(--room))"></span>')


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _text(value: object) -> str:
    """As it can stand anywhere in the page, inside double quotes too."""
    if isinstance(value, _Html):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return html.escape(printable(value))
