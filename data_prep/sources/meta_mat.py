"""Reads the devkit's meta.mat with scipy, in a process of its own.

A damaged or made-up file can bring scipy's reader down without an exception, or blow up when it
is unpacked: then that process ends, and not the one that asked. Nothing is unpickled.
"""

import io
import json
import os
import resource
import subprocess
import sys

import numpy as np
import scipy.io

FIELDS = ("ILSVRC2012_ID", "WNID", "words", "num_children", "num_train_images")
_OPTIONAL = "num_train_images"
_LARGEST_MEMORY = 4 << 30  # of address space; libraries and the real file take less than 1 GB
_MOST_SECONDS = 60  # of a core; the real file takes one


def read_synsets(content: bytes) -> list[dict[str, int | str | None]]:
    """The rows of the struct array `synsets`.

    Args:
        content: of meta.mat.

    Returns:
        For each synset, what `FIELDS` hold: numbers and text; None for a field that old files lack.

    Raises:
        ValueError: the file is no .mat file, a damaged one, or holds another table.
    """
    process = subprocess.run(
        # -P: this folder has modules that are called as some of the standard library are.
        [sys.executable, "-P", __file__],
        input=content,
        capture_output=True,
        check=False,
        # Each thread that NumPy would start takes from the address space.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    if process.returncode:
        lines = process.stderr.decode(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), "the reader was killed")
        raise ValueError(f"a table of synsets is needed. Received: {reason.strip()[:200]}")
    return json.loads(process.stdout)


def parse(content: bytes) -> list[dict[str, int | str | None]]:
    """As `read_synsets`, but in this process; raises whatever scipy does, if it returns at all."""
    variables = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True, variable_names=["synsets"])
    table = np.atleast_1d(variables["synsets"])
    absent = {_OPTIONAL} - set(table.dtype.names)
    kinds = {"WNID": str, "words": str}
    return [
        {field: None if field in absent else kinds.get(field, int)(row[field]) for field in FIELDS}
        for row in table
    ]


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_LARGEST_MEMORY, _LARGEST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    print(json.dumps(parse(sys.stdin.buffer.read())))
