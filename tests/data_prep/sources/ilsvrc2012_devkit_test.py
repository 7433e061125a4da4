import gzip
import io
import random
import tarfile

import numpy as np
import pytest
import scipy.io
import small_release
from small_release import SYNSETS, devkit_tar, tar_bytes

from data_prep import records
from data_prep.sources import ilsvrc2012_devkit, tars


def read(folder, content):
    (folder / "devkit.tar.gz").write_bytes(content)
    return ilsvrc2012_devkit.read(str(folder / "devkit.tar.gz"))


def saved(synsets, **options):
    output = io.BytesIO()
    scipy.io.savemat(output, {"synsets": synsets}, **options)
    return output.getvalue()


def test_classes_and_ground_truth_go_by_wnid(tmp_path):
    devkit = read(tmp_path, devkit_tar())
    assert devkit.classes == small_release.CLASSES
    assert devkit.truth == {1: "n02", 2: "n03", 3: "n01"}
    assert devkit.train_images == {"n01": 2, "n02": 2, "n03": 2}


def test_a_compressed_table_is_read(tmp_path):
    table = scipy.io.loadmat(io.BytesIO(small_release.meta_mat()))["synsets"]
    compressed = saved(table, do_compression=True)
    assert read(tmp_path, devkit_tar(compressed)) == read(tmp_path, devkit_tar())


def test_a_devkit_with_one_class_and_plain_gzip_less_tar_is_read(tmp_path):
    devkit = read(tmp_path, gzip.decompress(devkit_tar(SYNSETS[:1], "1\n")))
    assert devkit.classes == (records.ClassName("n03", "third, 3rd"),)


def test_names_become_one_line_of_text(tmp_path):
    synsets = [(1, " n0 1\n", "a\tb\n\x07 é", 0, 1)]
    devkit = read(tmp_path, devkit_tar(synsets, "1\n"))
    assert devkit.classes == (records.ClassName("n01", r"a b \x07 é"),)


def test_real_labels_are_those_of_tensorflow_datasets(tmp_path):
    wnids = small_release.list_of_tensorflow_datasets("labels.txt")
    truth = small_release.list_of_tensorflow_datasets("validation_labels.txt")
    in_order_of_ids = random.Random(0).sample(wnids, len(wnids))
    ids = {wnid: number for number, wnid in enumerate(in_order_of_ids, start=1)}
    synsets = [(number, wnid, wnid, 0) for wnid, number in ids.items()]
    devkit = read(tmp_path, devkit_tar(synsets, "".join(f"{ids[wnid]}\n" for wnid in truth)))
    assert [entry.wnid for entry in devkit.classes] == wnids
    assert devkit.truth == dict(enumerate(truth, start=1))
    assert devkit.train_images is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<html>" * 200, r"devkit.tar.gz must be a whole tar file[^\n]*; fetch it again$"),
        (devkit_tar()[:300], r"devkit.tar.gz must be a whole tar file"),
        (devkit_tar()[:-8] + bytes(8), r"devkit.tar.gz must be a whole tar file.*CRC"),
        (tar_bytes([("a/meta.mat", b"")]), r"must hold data/ILSVRC2012_validation"),
        (tar_bytes([("a/x", b"")]), r"must hold data/meta.mat, but does not; fetch it again"),
        (devkit_tar(b"no mat"), r"meta.mat in .*/devkit.tar.gz must hold .* cannot be read \("),
        (devkit_tar(b""), r"cannot be read \(.*Mat"),
        (devkit_tar(b"no mat file" * 99), r"cannot be read \(\w"),
        (devkit_tar(small_release.meta_mat()[:400]), r"cannot be read \(\w"),
        (devkit_tar(saved(np.zeros(3))), r"cannot be read \(TypeError"),
        (devkit_tar(saved({"ILSVRC2012_ID": 1, "WNID": "n1"})), r"\(ValueError: no field of name"),
        (devkit_tar([(1, "n01", "a", 0, float("nan"))]), r"cannot be read \(.*NaN"),
        (devkit_tar(SYNSETS[1:]), r"must have the ids 1 to N"),
        (devkit_tar(SYNSETS[3:]), r"must have the ids 1 to N"),
        (devkit_tar((*SYNSETS, (4, "n11", "", 0, 1))), r"the same id; 4 is there 2 times"),
        (devkit_tar((*SYNSETS, (6, "n01", "", 2, 0))), r"the same wnid; n01 is there 2 times"),
        (devkit_tar(truth="3\n1\n4\n"), r"one of the 3 classes .*; 4 is not"),
        (devkit_tar(truth="3\n1\nx\n"), r"must hold an id a line"),
        (devkit_tar(truth="3\n1\n1\n"), r"as many validation .*; n01 has 0, n03 has 2; fetch"),
        (devkit_tar(truth=""), r"and at least one; n\d+ has 0"),
    ],
)
def test_a_faulty_devkit_is_refused(tmp_path, content, text):
    with pytest.raises(ValueError, match=text):
        read(tmp_path, content)


def test_a_flipped_byte_does_not_reach_scipy(tmp_path):
    content = bytearray(gzip.compress(gzip.decompress(devkit_tar()), 0))
    # The type of a piece of text, out of the table of types: scipy 1.17 reads outside of it.
    content[content.index(b"third, 3rd") - 7] = 0xFF
    with pytest.raises(ValueError, match=r"must be a whole tar file.*CRC"):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
def test_a_faulty_unpacked_devkit_is_refused(tmp_path, name):
    small_release.write(tmp_path, small_release.devkit_files())
    folder = tmp_path / small_release.DEVKIT_FOLDER
    (folder / "data" / name).unlink()
    with pytest.raises(ValueError, match=rf"devkit_t12 must hold data/{name}, but does not"):
        ilsvrc2012_devkit.read(str(folder))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_LIST", 1 << 20)
    bomb = devkit_tar(truth="1\n" * (1 << 20))
    assert len(bomb) < 1 << 16
    with pytest.raises(ValueError, match=r"ground_truth.txt in .* list of at most 1 MB"):
        read(tmp_path, bomb)


def test_a_link_in_the_tar_is_no_file(tmp_path):
    link = tarfile.TarInfo("data/meta.mat")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ValueError, match=r"must hold data/meta.mat"):
        read(tmp_path, tar_bytes([link]))
