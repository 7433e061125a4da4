import io

import numpy as np
import pytest
import scipy.io
import small_release

from data_prep.sources import ilsvrc2012_devkit


def rows(synsets=small_release.SYNSETS):
    return [dict(zip(ilsvrc2012_devkit.FIELDS, synset, strict=True)) for synset in synsets]


def saved(synsets, **options):
    output = io.BytesIO()
    scipy.io.savemat(output, {"synsets": synsets}, **options)
    return output.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_what_was_saved_is_read(compressed):
    dtype = [(name, object) for name in ilsvrc2012_devkit.FIELDS]
    table = np.array(list(small_release.SYNSETS), dtype).reshape(-1, 1)
    content = saved(table, do_compression=compressed)
    assert ilsvrc2012_devkit.read_synsets(content) == rows()


def test_a_field_that_is_not_there_is_none():
    content = small_release.meta_mat([synset[:4] for synset in small_release.SYNSETS])
    assert ilsvrc2012_devkit.read_synsets(content) == [
        {**row, "num_train_images": None} for row in rows()
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"a table of synsets is needed. Received: .*Mat"),
        (b"no mat file" * 99, r"a table of synsets is needed. Received: \w"),
        (saved(np.zeros(3)), r"Received: TypeError"),
        (small_release.meta_mat()[:400], r"Received: \w"),
        (saved({"ILSVRC2012_ID": 1, "WNID": "n01"}), r"Received: ValueError: no field of name"),
    ],
)
def test_another_file_is_refused(content, text):
    with pytest.raises(ValueError, match=text):
        ilsvrc2012_devkit.read_synsets(content)
