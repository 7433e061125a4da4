"""Commands of the project, run in this process (TensorFlow has started already) or in another."""

import contextlib
import importlib
import importlib.util
import io
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

from repository import ROOT


class Done(NamedTuple):
    """The end of a command, as `subprocess.CompletedProcess` has it."""

    returncode: int
    stdout: str
    stderr: str


def in_process(module, *arguments):
    """Run `python -m module arguments`; what it raises but SystemExit passes through.

    What the command prints to file descriptors rather than to sys.stdout is not seen.
    """
    if importlib.util.find_spec(module).submodule_search_locations:
        module = f"{module}.__main__"
    command = importlib.import_module(module)
    command.FLAGS.unparse_flags()
    for name in command.FLAGS:
        command.FLAGS[name].unparse()
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        mock.patch.object(sys, "argv", [command.__file__, *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command.run()
        except SystemExit as end:
            return Done(end.code, *(file.buffer.getvalue().decode() for file in (out, err)))
    raise AssertionError(f"{module}.run() has to end with SystemExit")


def in_new_process(module, *arguments):
    """Run `python -m module arguments` from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
