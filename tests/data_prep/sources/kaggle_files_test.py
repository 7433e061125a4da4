import pytest
import small_release
from small_release import MAPPING, SOLUTION

from data_prep.sources import kaggle_files, tars

WNIDS = {"n01", "n02", "n03"}
HEADER = "ImageId,PredictionString\n"
ROW = "ILSVRC2012_val_00000001,n01 85 1 499 272 \n"


def solution(folder, content, wnids=WNIDS):
    small_release.write(folder, {kaggle_files.SOLUTION: content})
    return kaggle_files.read_solution(str(folder / kaggle_files.SOLUTION), wnids)


def mapping(folder, content):
    small_release.write(folder, {kaggle_files.SYNSET_MAPPING: content})
    return kaggle_files.read_synset_mapping(str(folder / kaggle_files.SYNSET_MAPPING))


@pytest.mark.parametrize(
    "content",
    [
        SOLUTION,
        SOLUTION.replace("\n", "\r\n"),
        "\ufeff" + SOLUTION,
        SOLUTION.rstrip(),
        SOLUTION + "\n",
        SOLUTION.replace("n01 85 1 499 272 ", '"n01 85 1 499 272"'),
    ],
)
def test_the_solution_is_read(tmp_path, content):
    assert solution(tmp_path, content) == {1: "n02", 2: "n03", 3: "n01"}


def test_a_real_row_says_what_tensorflow_datasets_says(tmp_path):
    truth = small_release.list_of_tensorflow_datasets("validation_labels.txt")
    row = "ILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
    [(number, wnid)] = solution(tmp_path, HEADER + row, set(truth)).items()
    assert truth[number - 1] == wnid


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", r"line 1 of .*/LOC_val_solution.csv must hold the header ImageId,PredictionString; f"),
        (ROW, r"line 1 of .* the header"),
        ("ImageId\n", r"line 1 of .* the header"),
        (HEADER + ROW + "a,b,c\n", r"line 3 of .* an ImageId such as ILSVRC2012_val_00000001 and"),
        (HEADER + "x\n", r"line 2 of .* an ImageId such as"),
        (HEADER + "ILSVRC2012_val_1,n01 85 1 499 272\n", r"line 2 of .* an ImageId such as"),
        (HEADER + "../../etc/passwd,n01 85 1 499 272\n", r"line 2 of .* an ImageId such as"),
        (HEADER + "ILSVRC2012_val_00000001,\n", r"line 2 of .* one class' wnid and four numbers"),
        (HEADER + "ILSVRC2012_val_00000001,n01 1 2 3\n", r"line 2 of .* wnid and four numbers"),
        (
            HEADER + "ILSVRC2012_val_00000001,n01 1 2 3 4 n02 1 2 3 4\n",
            r"line 2 of .* one class' wnid and four numbers",
        ),
        (HEADER + ROW.replace("n01", "n09"), r"line 2 of .* one of the 3 classes, not n09; fetch"),
        (HEADER + ROW.replace("n01", "\x1b[31m" + "x" * 99), r"classes, not \\x1b\[31mx{35}; f"),
        (HEADER + ROW + "\n" + ROW, r"line 4 of .* the only row of ILSVRC2012_val_00000001; fetch"),
        (HEADER + ROW + '"open\n', r"line 3 of .* a row of a csv file \("),
        (HEADER + "x" * 200_000 + ",y\n", r"line 2 of .* a row of a csv file \(.*limit"),
        ((HEADER + ROW).encode() + b"\xff\n", r"line 3 of .* text in UTF-8; fetch the file again"),
        ((HEADER + ROW).encode("utf-16"), r"line 1 of .* text in UTF-8"),
    ],
)
def test_a_faulty_solution_is_refused(tmp_path, content, text):
    with pytest.raises(ValueError, match=text):
        solution(tmp_path, content)


@pytest.mark.parametrize("content", [MAPPING, "n03 third,\t3rd\r\n\nn02 second\nn01 first"])
def test_the_mapping_is_read(tmp_path, content):
    assert mapping(tmp_path, content) == small_release.CLASSES


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("n01 first\nn02\n", r"line 2 of .*/LOC_synset_mapping.txt must hold a wnid and the name"),
        ("n01 first\n \n", r"line 2 of .* a wnid and the name of the class; fetch"),
        ("n01 first\nn01 second\n", r"line 2 of .* the only line of n01; fetch the file again"),
        (b"n01 \xff\n", r"line 1 of .* text in UTF-8"),
    ],
)
def test_a_faulty_mapping_is_refused(tmp_path, content, text):
    with pytest.raises(ValueError, match=text):
        mapping(tmp_path, content)


def test_lists_that_are_too_large_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_LIST", 1 << 20)
    for read in (solution, mapping):
        with pytest.raises(ValueError, match=r"LOC_\w+\.\w+ must be a list of at most 1 MB"):
            read(tmp_path, bytes((1 << 20) + 1))
