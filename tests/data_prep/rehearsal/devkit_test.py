import gzip
import io
import tarfile
import time

import pytest
import scipy.io

from data_prep.rehearsal import release

_SYNSETS = (
    release.Synset(1, "n00000007", "cat, house cat", "purrs", (), 0, 12),
    release.Synset(2, "n00000003", "dog", "barks", (), 0, 1300),
    release.Synset(3, "n00000001", "animal", "lives", (1, 2), 1, 0),
)
_GROUND_TRUTH = (2, 1, 1, 2, 2)


@pytest.fixture(scope="module")
def members():
    content = release.devkit_bytes(_SYNSETS, _GROUND_TRUTH)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_ground_truth_is_an_id_a_line(members):
    text = members["ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"]
    assert text == b"2\n1\n1\n2\n2\n"


def test_meta_mat_reads_back(members):
    content = members["ILSVRC2012_devkit_t12/data/meta.mat"]
    synsets = scipy.io.loadmat(io.BytesIO(content))["synsets"]
    assert synsets.shape == (3, 1)
    cat, animal = synsets[0, 0], synsets[2, 0]
    assert (cat["ILSVRC2012_ID"].item(), cat["WNID"].item()) == (1, "n00000007")
    assert (cat["words"].item(), cat["gloss"].item()) == ("cat, house cat", "purrs")
    assert (cat["num_children"].item(), cat["children"].size) == (0, 0)
    assert (cat["wordnet_height"].item(), cat["num_train_images"].item()) == (0, 12)
    assert animal["children"].tolist() == [[1, 2]]
    assert (animal["num_children"].item(), animal["wordnet_height"].item()) == (2, 1)


@pytest.mark.slow
def test_nothing_holds_the_day_or_the_platform(members):
    meta = members["ILSVRC2012_devkit_t12/data/meta.mat"]
    assert meta[:116].split() == [b"MATLAB", b"5.0", b"MAT-file,", b"rehearsal", b"release"]
    # What follows the text is the format's: no subsystem, version 1, byte order.
    assert meta[116:128] == bytes(8) + b"\x00\x01IM"
    content = release.devkit_bytes(_SYNSETS, _GROUND_TRUTH)
    assert content[4:8] == bytes(4)  # gzip's time
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}
    time.sleep(1.1)
    assert release.devkit_bytes(_SYNSETS, _GROUND_TRUTH) == content


def test_tar_reads_back():
    members = [("a.JPEG", b"1234"), ("b/c.JPEG", b""), ("d", bytes(2000))]
    with tarfile.open(fileobj=io.BytesIO(release.tar_bytes(members))) as tar:
        assert [(member.name, tar.extractfile(member).read()) for member in tar] == members
