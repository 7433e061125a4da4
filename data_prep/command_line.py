"""The start and the end of every command of this project.

A command module has its own `flags.FlagValues()`, a `main(arguments) -> dict`, and

    def run() -> None:
        command_line.run(main, FLAGS, __doc__)

Flags live in a FlagValues of the command's own, not in absl's global one, so that two commands
that both have `--output_dir` can be imported by one process (pytest, the quick start).
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from absl import flags

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FOLDERS = tuple(os.path.join(_ROOT, name, "") for name in ("data_prep", "keras_alexnet"))
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake of the user or of the input; its text is one line that says what to do."""

    exit_status = EXIT_FAILED


class TryAgain(UserError):  # noqa: N818 (nobody's error: a machine was taken back, say)
    """The command was stopped from outside; given again, it goes on."""

    exit_status = EXIT_TRY_AGAIN


def run(
    main: Callable[[Sequence[str]], Mapping[str, object]],
    flag_values: flags.FlagValues,
    usage: str,
    *,
    takes_arguments: bool = False,
) -> NoReturn:
    """Parse the command line, call `main`, print its result as one line of JSON, and exit.

    Args:
        main: gets the arguments that are not flags (those after `--` included), returns the figures
            to print.
        flag_values: flags of the command.
        usage: the command's module docstring, shown by `--help`.
        takes_arguments: whether arguments that are not flags are allowed.

    Exit status: 0 when `main` returned, 1 after a `UserError`, a `ValueError` that this project
    raised, or an `OSError` (a full disk, a folder without permission), 2 after a wrong flag, 75
    after a `TryAgain`, 130 after Ctrl-C; after all but 0, one line on stderr says what to do. A
    `ValueError` from inside of another library keeps its traceback: it is a bug.
    """
    if _asks_for_help(sys.argv[1:]):
        print(f"{usage.strip()}\n\nFlags:\n{_describe(flag_values)}")
        sys.exit(0)
    try:
        arguments = flag_values(sys.argv)[1:]
        if arguments and not takes_arguments:
            raise flags.Error(f"unexpected argument {arguments[0]!r}; flags are --name=value")
        result = main(arguments)
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)", EXIT_USAGE)
    except UserError as error:
        _fail(str(error), error.exit_status)
    except ValueError as error:
        if not _is_of_this_project(error):
            raise
        _fail(str(error), EXIT_FAILED)
    except OSError as error:
        _fail(
            f"{error.strerror or error}: {error.filename or 'while writing or reading'}",
            EXIT_FAILED,
        )
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", EXIT_INTERRUPTED)
    print(json.dumps(result), flush=True)
    sys.exit(0)


def _is_of_this_project(error: BaseException) -> bool:
    """Return whether this project's code raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(_FOLDERS)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in ("-h", "--help", "-help", "--helpfull") for argument in own)


def _describe(flag_values: flags.FlagValues) -> str:
    """Return one paragraph a flag, in the order of their definition."""
    lines = []
    for module_flags in flag_values.flags_by_module_dict().values():
        for flag in module_flags:
            kind = flag.flag_type()
            # Absl has the choices in the help text; they belong where the value goes.
            choices = getattr(flag.parser, "enum_values", None)
            value = "|".join(choices) if choices else kind
            default = "" if flag.default is None else f" (default: {flag.default})"
            text = flag.help.removeprefix(f"<{value}>: ")
            lines.append(f"  --{flag.name}=<{value}>{default}\n      {text}")
    lines.append(
        "  --flagfile=<file>\n      reads flags from a file; later flags win, so put it first"
    )
    return "\n".join(lines)


def _program(path: str) -> str:
    """Return the name that messages begin with: of a command that is a package, the package's."""
    folder, name = os.path.split(path)
    return f"{os.path.basename(folder)}.py" if name == "__main__.py" else name


def _fail(message: str, status: int) -> NoReturn:
    one_line = " ".join(str(message).split())
    print(f"{_program(sys.argv[0])}: {one_line}", file=sys.stderr, flush=True)
    sys.exit(status)
