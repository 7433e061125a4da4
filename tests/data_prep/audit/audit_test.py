import hashlib
import json
import random
import tracemalloc
from collections import Counter, defaultdict

import numpy as np

from data_prep import audit, records
from data_prep.audit import Audit
from data_prep.photos.outcomes import Outcome, Thumbnail
from data_prep.sources.reference import Reference

CLASSES = tuple(records.ClassName(f"n{index:08d}", f"thing {index}") for index in range(12))


def reference(split, key, label):
    return Reference(split, key, "/data/photos.tar", 512, 1000, key, label, 1)


def outcome(content, *, size=(500, 375), reason="", repairs=(), notes=()):
    digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
    return Outcome(digest, *size, reason, repairs, notes, 0 if reason else 20_000)


def synthetic(count=4000, seed=1):
    """Return photos of two splits, about a tenth of them copies of others, in and across splits."""
    draw = random.Random(seed)
    photos = []
    for index in range(count):
        split = "validation" if draw.random() < 0.2 else "train"
        label = min(int(draw.expovariate(0.4)), len(CLASSES) - 2)  # the last class stays empty
        copy = draw.random() < 0.1
        content = f"copy {draw.randrange(count // 20)}" if copy else f"photo {index}"
        # As in truth: what becomes of a photo depends on its bytes alone.
        fate = random.Random(content)
        if fate.random() < 0.05:
            reason = fate.choice(("empty", "truncated"))
            size = (0, 0) if reason == "empty" else (640, 480)
            result = outcome(content, reason=reason, size=size)
        else:
            repairs = tuple(kind for kind in ("cmyk_to_rgb", "exif_rotated") if fate.random() < 0.1)
            notes = ("icc_profile",) if fate.random() < 0.1 else ()
            size = (fate.randrange(1, 700), fate.choice((375, 500, 5000)))
            result = outcome(content, size=size, repairs=repairs, notes=notes)
        photos.append((reference(split, f"{CLASSES[label].wnid}/{index}.JPEG", label), result))
    return photos


def audited(photos, thumbnails=()):
    with Audit(CLASSES) as made:
        for photo in photos:
            made.add(*photo)
        for split, pictures in thumbnails:
            made.add_thumbnails(split, pictures)
        return made.to_files()


def report_of(photos):
    return json.loads(audited(photos)["audit.json"])


def test_splits_and_classes_agree_with_plain_counts():
    photos = synthetic()
    report = report_of(photos)
    for split in ("train", "validation"):
        mine = [(ref, out) for ref, out in photos if ref.split == split]
        kept = [(ref, out) for ref, out in mine if out.record_bytes]
        assert report["splits"][split] == {
            "photos": len(mine),
            "records": len(kept),
            "rejected": len(mine) - len(kept),
            "rejected_by_reason": Counter(out.reason for _, out in mine if out.reason),
            "repairs": Counter(kind for _, out in mine for kind in out.repairs),
            "notes": Counter(kind for _, out in mine for kind in out.notes),
        }
        for label, entry in enumerate(report["classes"]):
            assert (entry["label"], entry["wnid"]) == (label, CLASSES[label].wnid)
            assert entry["name"] == CLASSES[label].name
            assert entry["records"][split] == sum(ref.label == label for ref, _ in kept)
            lost = [ref for ref, out in mine if ref.label == label and out.reason]
            assert entry["rejected"][split] == len(lost)


def test_duplicates_agree_with_plain_groups():
    photos = synthetic()
    by_content = defaultdict(list)
    for ref, out in photos:
        if not out.reason:
            by_content[out.content.hex()].append((ref.split, ref.key, ref.label))
    groups = {content: sorted(members) for content, members in by_content.items() if members[1:]}
    duplicates = report_of(photos)["duplicates"]

    assert len(groups) > 50
    assert duplicates["groups_left_out"] == 0
    order = [
        (not g["across_splits"], not g["labels_differ"], -sum(g["photos"].values()), g["content"])
        for g in duplicates["groups"]
    ]
    assert order == sorted(order)  # the worst first
    assert {group["content"]: group for group in duplicates["groups"]} == {
        content: {
            "content": content,
            "photos": Counter(split for split, _, _ in members),
            "across_splits": len({split for split, _, _ in members}) > 1,
            "labels_differ": len({label for _, _, label in members}) > 1,
            "listed": [dict(zip(("split", "key", "label"), m, strict=True)) for m in members],
            "listed_left_out": 0,
        }
        for content, members in groups.items()
    }
    for split in ("train", "validation"):
        sizes = [sum(member[0] == split for member in members) for members in groups.values()]
        repeated = [size for size in sizes if size > 1]
        expected = {"groups": len(repeated), "photos": sum(repeated)}
        assert duplicates["within_split"][split] == expected
    across = [members for members in groups.values() if len({m[0] for m in members}) > 1]
    assert across
    assert duplicates["across_splits"] == {
        "groups": len(across),
        "photos": Counter(split for members in across for split, _, _ in members),
    }
    differ = [members for members in groups.values() if len({m[2] for m in members}) > 1]
    expected = {"groups": len(differ), "photos": sum(map(len, differ))}
    assert duplicates["labels_differ"] == expected


def test_sizes_agree_with_numpy():
    photos = synthetic()
    sizes = report_of(photos)["sizes"]
    known = [(out.width, out.height) for _, out in photos if out.width]
    counted = Counter(known)
    expected = sorted(counted, key=lambda size: (-counted[size], size))
    listed = [(s["width"], s["height"], s["photos"]) for s in sizes["most_frequent"]]
    limit = audit.LISTED_SIZES
    assert listed == [(*size, counted[size]) for size in expected[:limit]]
    left_out = [counted[size] for size in expected[limit:]]
    assert sizes["left_out"] == {"sizes": len(left_out), "photos": sum(left_out)}
    assert left_out
    assert sizes["distinct"] == len(counted)
    assert sizes["unknown"] == len(photos) - len(known) > 0
    edges = [bucket["from"] for bucket in sizes["short_side"]]
    assert [bucket["below"] for bucket in sizes["short_side"]] == [*edges[1:], None]
    histogram, _ = np.histogram(np.min(known, axis=1), bins=[*edges, 1 << 30])
    assert [bucket["photos"] for bucket in sizes["short_side"]] == histogram.tolist()


def test_order_changes_no_byte():
    photos = synthetic(2000)
    pictures = [
        (ref.split, Thumbnail(ref.key, kind, out.content))
        for ref, out in photos
        for kind in out.repairs
    ]
    draw = random.Random(2)
    results = []
    for _ in range(3):
        results.append(audited(photos, ((split, [picture]) for split, picture in pictures)))
        draw.shuffle(photos)
        draw.shuffle(pictures)
    assert results[0] == results[1] == results[2]
    text = results[0]["audit.json"].decode()
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text


def test_copies_that_were_rejected_are_no_duplicates():
    photos = [
        (reference(split, f"a/{index}.jpg", 0), outcome("", size=(0, 0), reason="empty"))
        for index, split in enumerate(("train", "train", "validation"))
    ]
    report = report_of(photos)
    assert report["duplicates"]["groups"] == []
    assert report["splits"]["train"]["rejected_by_reason"] == {"empty": 2}


def test_names_that_are_no_utf8_pass():
    odd = "a/\udcff<\x07>.jpg"
    photos = [(reference(split, odd, 0), outcome("same")) for split in ("train", "validation")]
    files = audited(photos, [("train", [Thumbnail(odd, "cmyk_to_rgb", b"")])])
    listed = json.loads(files["audit.json"])["duplicates"]["groups"][0]["listed"]
    assert [photo["key"] for photo in listed] == [odd, odd]
    assert r"a/\udcff&lt;\x07&gt;.jpg" in files["audit.html"].decode()


def test_thumbnails_that_are_not_shown_are_not_kept():
    thumbnails = (Thumbnail(f"{i:04d}", "cmyk_to_rgb", bytes(10_000)) for i in range(2000))
    with Audit(CLASSES) as made:
        tracemalloc.start()
        made.add_thumbnails("train", thumbnails)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 100 * 10_000
