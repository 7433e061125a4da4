"""What is to be said of an audit, in words, with what to do about it."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping

from data_prep.sources.reference import printable

# Worst first.
LEVELS = ("problem", "look", "fine")
# More than one photo in a hundred lost says that something is wrong with the input as a whole.
MANY_REJECTED = 0.01
# ILSVRC2012's largest class has 1.8 times the photos of its smallest (1,300 and 732).
UNEVEN = 10
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Finding:
    """One sentence on the data.

    Attributes:
        level: one of `LEVELS`: must be mended, is worth a look, is as it should be.
        text: what was found.
        advice: what to do about it; "" where there is nothing to do.
    """

    level: str
    text: str
    advice: str = ""


def find(report: Mapping) -> list[Finding]:
    """All findings, the worst first.

    Args:
        report: the content of audit.json (see `data_prep.audit`) without the findings.
    """
    findings = [finding for check in _CHECKS for finding in check(report)]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _across_splits(report: Mapping) -> Iterator[Finding]:
    across = report["duplicates"]["across_splits"]
    splits = "both in " + " and in ".join(report["splits"])
    if not across["groups"]:
        yield Finding("fine", f"No photo is {splits}.")
        return
    shares = [
        f"{found:,} of {split}'s {report['splits'][split]['records']:,}"
        f" ({found / report['splits'][split]['records']:.2%})"
        for split, found in across["photos"].items()
        if found
    ]
    yield Finding(
        "problem",
        f"{_are(across['groups'], 'photo')} {splits}: {', '.join(shares)}.",
        "Accuracies will come out too high, since the network has learned these answers by heart. "
        "Remove the copies from train if figures are to be compared with other people's, else "
        "from validation; then prepare again.",
    )


def _labels_differ(report: Mapping) -> Iterator[Finding]:
    differ = report["duplicates"]["labels_differ"]
    if not differ["groups"]:
        yield Finding("fine", "No photo is in two classes.")
        return
    yield Finding(
        "problem",
        f"{_are(differ['groups'], 'photo')} in more than one class.",
        "No network can answer these rightly. Decide for one class and remove the other copies, "
        "or the photo altogether; then prepare again.",
    )


def _within_split(report: Mapping) -> Iterator[Finding]:
    for split, found in report["duplicates"]["within_split"].items():
        if not found["groups"]:
            yield Finding("fine", f"No photo is in {split} twice.")
            continue
        surplus = found["photos"] - found["groups"]
        yield Finding(
            "look",
            f"{_are(found['groups'], 'photo')} in {split} more than once: "
            f"{_many(surplus, 'copy', 'copies')} too many.",
            f"Each copy counts as a photo of its own in what is computed over {split}. Remove all "
            "but one of each, unless they are meant to be there.",
        )


def _rejected(report: Mapping) -> Iterator[Finding]:
    splits = report["splits"].values()
    photos = sum(split["photos"] for split in splits)
    reasons = sum((Counter(split["rejected_by_reason"]) for split in splits), Counter())
    if not reasons:
        yield Finding("fine", f"No photo was rejected, of {photos:,}.")
        return
    rejected = reasons.total()
    listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    advice = "Each is named in rejected.jsonl. Fetch the damaged ones again, or leave them out."
    if "truncated" in reasons:
        advice += " With --truncated=accept, what there is of the truncated ones is used."
    yield Finding(
        "problem" if rejected > MANY_REJECTED * photos else "look",
        f"{rejected:,} of {_many(photos, 'photo')} ({rejected / photos:.2%}) could not be used: "
        f"{listed}.",
        advice,
    )


def _empty_classes(report: Mapping) -> Iterator[Finding]:
    for split in report["splits"]:
        empty = [
            f"{printable(entry['wnid'])} ({printable(entry['name'])})"
            for entry in report["classes"]
            if not entry["records"][split]
        ]
        if not empty:
            yield Finding("fine", f"Each class has photos in {split}.")
            continue
        more = f" and {len(empty) - _NAMED:,} more" if len(empty) > _NAMED else ""
        verb = "has" if len(empty) == 1 else "have"
        yield Finding(
            "problem",
            f"{_many(len(empty), 'class', 'classes')} {verb} no photo in {split}: "
            f"{', '.join(empty[:_NAMED])}{more}.",
            "Put photos of them in, or take their folders out; then prepare again.",
        )


def _evenness(report: Mapping) -> Iterator[Finding]:
    for split in report["splits"]:
        sizes = [count for entry in report["classes"] if (count := entry["records"][split])]
        if not sizes:
            continue
        least, most = min(sizes), max(sizes)
        text = f"Classes have {least:,} to {most:,} photos in {split}."
        if least == most:
            text = f"Classes have {_many(most, 'photo')} each in {split}."
        if most < UNEVEN * least:
            yield Finding("fine", text)
            continue
        yield Finding(
            "look",
            text,
            "Where classes are that uneven, the accuracy over all photos mostly tells of the "
            "largest ones.",
        )


def _repairs(report: Mapping) -> Iterator[Finding]:
    splits = report["splits"].values()
    repairs = sum((Counter(split["repairs"]) for split in splits), Counter())
    if not repairs:
        yield Finding("fine", "No photo needed a repair.")
        return
    listed = ", ".join(f"{repair} {count:,}" for repair, count in repairs.most_common())
    yield Finding(
        "look",
        f"Photos were repaired: {listed}.",
        "See by the thumbnails whether they look as they should.",
    )


_CHECKS = (
    _across_splits,
    _labels_differ,
    _empty_classes,
    _rejected,
    _within_split,
    _evenness,
    _repairs,
)


def _many(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _are(number: int, noun: str) -> str:
    return f"{_many(number, noun)} {'is' if number == 1 else 'are'}"
