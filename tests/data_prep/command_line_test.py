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


def test_the_last_line_is_the_result_as_json(monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, give, "--size=5")
    assert (status, err) == (0, "")
    assert json.loads(out.splitlines()[-1]) == {"size": 5, "rest": []}


def test_what_follows_two_dashes_reaches_main(monkeypatch, capsys):
    status, out, _ = run(
        monkeypatch, capsys, give, "--size=5", "--", "--size=7", "--help", takes_arguments=True
    )
    assert status == 0
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


def test_a_users_mistake_is_one_line_and_status_1(monkeypatch, capsys):
    def fail(values, rest):
        raise command_line.UserError("first\n  second")

    status, out, err = run(monkeypatch, capsys, fail)
    assert (status, out, err) == (command_line.EXIT_FAILED, "", "tool.py: first second\n")


def test_a_refusal_of_the_librarys_is_one_line_and_status_1(monkeypatch, capsys):
    def main(values, rest):
        Rule(short_side=0)

    status, _, err = run(monkeypatch, capsys, main)
    assert status == 1
    assert err.startswith("tool.py: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("bug", [lambda: int("x"), lambda: np.zeros(3).reshape(2, 2)])
def test_a_value_error_from_elsewhere_keeps_its_traceback(monkeypatch, capsys, bug):
    with pytest.raises(ValueError, match=r"int|reshape"):
        run(monkeypatch, capsys, lambda values, rest: bug())


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupt(values, rest):
        raise KeyboardInterrupt

    status, _, err = run(monkeypatch, capsys, interrupt)
    assert status == command_line.EXIT_INTERRUPTED
    assert "run the same command again" in err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(rest):
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["tool.py"])
    with pytest.raises(ZeroDivisionError):
        command_line.run(bug, flags.FlagValues(), "")


def test_a_full_disk_is_one_line_and_status_1(monkeypatch, capsys):
    def write(values, rest):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/shard")

    status, out, err = run(monkeypatch, capsys, write)
    assert (status, out) == (command_line.EXIT_FAILED, "")
    assert err == "tool.py: No space left on device: /data/shard\n"
