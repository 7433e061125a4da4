"""Runs modules of this project in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from data_prep.command_line import UserError

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def call(
    what: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The line of JSON that a module prints last.

    Args:
        what: it is, for an error.
        module: its name.
        *arguments: of its command line.
        environment: variables beside those of this process.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{what} failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])
