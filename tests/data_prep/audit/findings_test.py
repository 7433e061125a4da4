import copy

import pytest

from data_prep.audit import findings as audit_findings

SPLITS = ("train", "validation")


def clean():
    """Return a report on 200 photos of two classes with which nothing is wrong."""
    split = {
        "photos": 100,
        "records": 100,
        "rejected": 0,
        "rejected_by_reason": {},
        "repairs": {},
        "notes": {},
    }
    return {
        "splits": {name: copy.deepcopy(split) for name in SPLITS},
        "classes": [
            {
                "label": label,
                "wnid": f"n{label}",
                "name": f"thing {label}",
                "records": dict.fromkeys(SPLITS, 50),
                "rejected": dict.fromkeys(SPLITS, 0),
            }
            for label in range(2)
        ],
        "duplicates": {
            "within_split": {name: {"groups": 0, "photos": 0} for name in SPLITS},
            "across_splits": {"groups": 0, "photos": dict.fromkeys(SPLITS, 0)},
            "labels_differ": {"groups": 0, "photos": 0},
        },
    }


def faults(report):
    """Return the findings that are not fine: level, text and advice in one line each."""
    return [
        f"{finding.level}: {finding.text} {finding.advice}"
        for finding in audit_findings.find(report)
        if finding.level != "fine"
    ]


def test_of_clean_data_each_point_is_said_to_be_fine():
    findings = audit_findings.find(clean())
    assert {(finding.level, finding.advice) for finding in findings} == {("fine", "")}
    assert [finding.text for finding in findings] == [
        "No photo is both in train and in validation.",
        "No photo is in two classes.",
        "Each class has photos in train.",
        "Each class has photos in validation.",
        "No photo was rejected, of 200.",
        "No photo is in train twice.",
        "No photo is in validation twice.",
        "Classes have 50 photos each in train.",
        "Classes have 50 photos each in validation.",
        "No photo needed a repair.",
    ]


def test_photos_across_splits():
    report = clean()
    across = {"groups": 12, "photos": {"train": 15, "validation": 12}}
    report["duplicates"]["across_splits"] = across
    (text,) = faults(report)
    assert text.startswith(
        "problem: 12 photos are both in train and in validation: 15 of train's 100 (15.00%), "
        "12 of validation's 100 (12.00%). "
    )
    assert "Remove the copies from train" in text


def test_photos_of_two_classes():
    report = clean()
    report["duplicates"]["labels_differ"] = {"groups": 1, "photos": 2}
    (text,) = faults(report)
    assert text.startswith("problem: 1 photo is in more than one class. ")
    assert "Decide for one class" in text


def test_copies_within_a_split():
    report = clean()
    report["duplicates"]["within_split"]["validation"] = {"groups": 3, "photos": 8}
    (text,) = faults(report)
    assert text.startswith("look: 3 photos are in validation more than once: 5 copies too many. ")


@pytest.mark.parametrize(("count", "level"), [(2, "look"), (3, "problem")])
def test_rejects_are_a_problem_when_they_are_many(count, level):
    report = clean()
    report["splits"]["train"]["rejected_by_reason"] = {"empty": 1, "truncated": count - 1}
    (text,) = faults(report)
    assert text.startswith(f"{level}: {count} of 200 photos ({count / 200:.2%}) could not be used:")
    assert f"truncated {count - 1}" in text
    assert "--truncated=accept" in text


def test_truncated_photos_are_not_spoken_of_where_there_is_none():
    report = clean()
    report["splits"]["train"]["rejected_by_reason"] = {"empty": 1}
    assert "--truncated" not in faults(report)[0]


def test_classes_without_a_photo():
    report = clean()
    report["classes"][1]["records"]["validation"] = 0
    assert faults(report)[0].startswith(
        "problem: 1 class has no photo in validation: n1 (thing 1). Put photos of them in"
    )
    for label in range(2, 9):
        records = {"train": 50, "validation": 0}
        report["classes"].append(
            {"wnid": f"n{label}", "name": f"thing {label}", "records": records}
        )
    text = faults(report)[0]
    assert "8 classes have no photo in validation: n1 (thing 1), n2" in text
    assert "n5 (thing 5) and 3 more." in text


def test_uneven_classes():
    report = clean()
    report["classes"][0]["records"]["train"] = 500
    (text,) = faults(report)
    assert text.startswith("look: Classes have 50 to 500 photos in train.")
    report["classes"][0]["records"]["train"] = 499
    assert not faults(report)


def test_repairs():
    report = clean()
    report["splits"]["train"]["repairs"] = {"cmyk_to_rgb": 1, "exif_rotated": 3}
    report["splits"]["validation"]["repairs"] = {"cmyk_to_rgb": 4}
    (text,) = faults(report)
    assert text.startswith("look: Photos were repaired: cmyk_to_rgb 5, exif_rotated 3.")


def test_problems_come_first():
    report = clean()
    report["splits"]["train"]["repairs"] = {"cmyk_to_rgb": 1}
    report["classes"][1]["records"]["validation"] = 0
    levels = [finding.level for finding in audit_findings.find(report)]
    assert levels == sorted(levels, key=audit_findings.LEVELS.index)
    assert levels[:2] == ["problem", "look"]
