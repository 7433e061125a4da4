import errno
import json
import sys

import numpy as np
import pytest
from absl import flags

from data_prep import command_line
from data_prep.conversion_rule import Rule


def run(monkeypatch, capsys, main, *arguments, **options):
    """Exit status, stdout and stderr of a command with one flag."""
    values = flags.FlagValues()
    flags.DEFINE_integer("size", 3, "How large.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("kind", None, ["a", "b"], "Which.", flag_values=values)
    monkeypatch.setattr(sys, "argv", ["/some/where/tool.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        command_line.run(lambda rest: main(values, rest), values, "Does things.", **options)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def give(values, rest):
    return {"size": values.size, "rest": rest}


def test_what_follows_two_dashes_reaches_main(monkeypatch, capsys):
    status, out, err = run(
        monkeypatch, capsys, give, "--size=5", "--", "--size=7", "--help", takes_arguments=True
    )
    assert (status, err) == (0, "")
    assert json.loads(out) == {"size": 5, "rest": ["--size=7", "--help"]}


def test_help_shows_usage_flags_and_choices(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, give, "--help")
    assert status == 0
    assert out.startswith("Does things.\n")
    assert "--size=<int> (default: 3)\n      " in out
    assert "--kind=<a|b>\n      Which." in out


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--size=0", "positive integer"),
        ("--size=x", "--size"),
        ("--sise=1", "Did you mean: size"),
        ("--kind=c", "should be one of"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(monkeypatch, capsys, argument, text):
    status, out, err = run(monkeypatch, capsys, give, argument)
    assert (status, out) == (command_line.EXIT_USAGE, "")
    assert text in err
    assert err.startswith("tool.py: ")
    assert err.count("\n") == 1


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("fail", "status", "text"),
    [
        (lambda: raise_(command_line.UserError("first\n  second")), 1, "first second"),
        (lambda: raise_(command_line.TryAgain("preempted")), 75, "preempted"),
        (lambda: Rule(short_side=0), 1, "short_side must be an integer of 8 to 4096. Received: 0"),
        (lambda: raise_(OSError(errno.ENOSPC, "disk full", "/shard")), 1, "disk full: /shard"),
        (
            lambda: raise_(KeyboardInterrupt),
            130,
            "interrupted; run the same command again to go on",
        ),
    ],
)
def test_a_failure_is_one_line_and_a_status(monkeypatch, capsys, fail, status, text):
    done = run(monkeypatch, capsys, lambda values, rest: fail())
    assert done == (status, "", f"tool.py: {text}\n")


@pytest.mark.parametrize(
    "bug", [lambda: int("x"), lambda: np.zeros(3).reshape(2, 2), lambda: 1 / 0]
)
def test_a_bug_keeps_its_traceback(monkeypatch, capsys, bug):
    with pytest.raises((ValueError, ZeroDivisionError)):
        run(monkeypatch, capsys, lambda values, rest: bug())
