"""The findings of an audit in words, each with what to do about it."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

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
    """Return all findings, the worst first.

    Args:
        report: the content of audit.json (see `data_prep.audit`) without the findings.
    """
    splits, duplicates = report["splits"], report["duplicates"]
    found = [_across_splits(splits, duplicates), _labels_differ(duplicates["labels_differ"])]
    found += [_empty_classes(split, report["classes"]) for split in splits]
    found += [_rejected(splits.values())]
    found += [_within_split(split, copies) for split, copies in duplicates["within_split"].items()]
    found += [_evenness(split, report["classes"]) for split in splits if splits[split]["records"]]
    found += [_repairs(splits.values())]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _across_splits(splits: Mapping, duplicates: Mapping) -> Finding:
    across, both = duplicates["across_splits"], "both in " + " and in ".join(splits)
    if not across["groups"]:
        return Finding("fine", f"No photo is {both}.")
    shares = [
        f"{found:,} of {split}'s {splits[split]['records']:,}"
        f" ({found / splits[split]['records']:.2%})"
        for split, found in across["photos"].items()
        if found
    ]
    return Finding(
        "problem",
        f"{_are(across['groups'])} {both}: {', '.join(shares)}.",
        "Accuracies will come out too high, since the network has learned these answers by heart. "
        "Remove the copies from train if figures are to be compared with other people's, else "
        "from validation; then prepare again.",
    )


def _labels_differ(differ: Mapping) -> Finding:
    if not differ["groups"]:
        return Finding("fine", "No photo is in two classes.")
    return Finding(
        "problem",
        f"{_are(differ['groups'])} in more than one class.",
        "No network can answer these rightly. Decide for one class and remove the other copies, "
        "or the photo altogether; then prepare again.",
    )


def _within_split(split: str, found: Mapping) -> Finding:
    if not found["groups"]:
        return Finding("fine", f"No photo is in {split} twice.")
    surplus = found["photos"] - found["groups"]
    return Finding(
        "look",
        f"{_are(found['groups'])} in {split} more than once: "
        f"{_many(surplus, 'copy', 'copies')} too many.",
        f"Each copy counts as a photo of its own in what is computed over {split}. Remove all "
        "but one of each, unless they are meant to be there.",
    )


def _rejected(splits: Collection[Mapping]) -> Finding:
    photos = sum(split["photos"] for split in splits)
    reasons, listed = _kinds(splits, "rejected_by_reason")
    if not reasons:
        return Finding("fine", f"No photo was rejected, of {photos:,}.")
    rejected = reasons.total()
    advice = "Each is named in rejected.jsonl. Fetch the damaged ones again, or leave them out."
    if "truncated" in reasons:
        advice += " With --truncated=accept, what there is of the truncated ones is used."
    return Finding(
        "problem" if rejected > MANY_REJECTED * photos else "look",
        f"{rejected:,} of {_many(photos, 'photo')} ({rejected / photos:.2%}) could not be used: "
        f"{listed}.",
        advice,
    )


def _empty_classes(split: str, classes: Sequence[Mapping]) -> Finding:
    empty = [
        f"{printable(entry['wnid'])} ({printable(entry['name'])})"
        for entry in classes
        if not entry["records"][split]
    ]
    if not empty:
        return Finding("fine", f"Each class has photos in {split}.")
    more = f" and {len(empty) - _NAMED:,} more" if len(empty) > _NAMED else ""
    verb = "has" if len(empty) == 1 else "have"
    return Finding(
        "problem",
        f"{_many(len(empty), 'class', 'classes')} {verb} no photo in {split}: "
        f"{', '.join(empty[:_NAMED])}{more}.",
        "Put photos of them in, or take their folders out; then prepare again.",
    )


def _evenness(split: str, classes: Sequence[Mapping]) -> Finding:
    sizes = [count for entry in classes if (count := entry["records"][split])]
    least, most = min(sizes), max(sizes)
    text = f"Classes have {least:,} to {most:,} photos in {split}."
    if least == most:
        text = f"Classes have {_many(most, 'photo')} each in {split}."
    if most < UNEVEN * least:
        return Finding("fine", text)
    return Finding(
        "look",
        text,
        "Where classes are that uneven, the accuracy over all photos mostly tells of the "
        "largest ones.",
    )


def _repairs(splits: Collection[Mapping]) -> Finding:
    repairs, listed = _kinds(splits, "repairs")
    if not repairs:
        return Finding("fine", "No photo needed a repair.")
    return Finding(
        "look",
        f"Photos were repaired: {listed}.",
        "See by the thumbnails whether they look as they should.",
    )


def _kinds(splits: Collection[Mapping], name: str) -> tuple[Counter[str], str]:
    """Return how many photos of all splits each reason or repair is on, and that as text."""
    kinds = sum((Counter(split[name]) for split in splits), Counter())
    return kinds, ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())


def _many(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _are(photos: int) -> str:
    return f"{_many(photos, 'photo')} {'is' if photos == 1 else 'are'}"
