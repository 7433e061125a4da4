"""Sets the preflight's verdicts beside the truth of preflight_truth.py, as Markdown.

What the preflight measures of each run is added to --measures, a line of JSON a run; what is
there is not measured again, so rules can be changed and judged anew at once.

Example:
  python -m benchmarks.preflight_confusion --data_dirs=CIFAR,SHAPES --copies_dir=COPIES \
      --truth=truth.jsonl --measures=measures.jsonl
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence

import keras
from absl import flags

from benchmarks import preflight_settings, preflight_truth
from data_prep import command_line
from keras_alexnet.preflight_checks import measuring, rules
from keras_alexnet.preflight_checks.rules import VERDICTS

FLAGS = flags.FlagValues()
_DATA_DIRS = flags.DEFINE_list(
    "data_dirs", None, "as for preflight_truth", required=True, flag_values=FLAGS
)
_COPIES = flags.DEFINE_string(
    "copies_dir", None, "as for preflight_truth", required=True, flag_values=FLAGS
)
_TRUTH = flags.DEFINE_string(
    "truth", None, "what preflight_truth wrote", required=True, flag_values=FLAGS
)
_MEASURES = flags.DEFINE_string(
    "measures", None, "the file of measures, JSON lines", required=True, flag_values=FLAGS
)
_SECONDS = flags.DEFINE_float("seconds", 45.0, "a preflight, at most", 1.0, flag_values=FLAGS)

Run = tuple[str, str, int]  # setting, data set, seed


def truth_of_run(line: Mapping[str, object]) -> str:
    """What validation top-1 says of a run.

    "learns": at the end 5 standard errors of a guess above chance or more, and 3 or more half-way.
    "flat": at the end less than 3 above. "at risk": it began late, or there is little to see.
    """
    top1 = line["top1"]
    if line["stopped"] or not top1:
        return "flat"
    error = preflight_truth.standard_error(line["classes"], line["photos"])
    above = [(value - 1 / line["classes"]) / error for value in top1]
    half_way = above[min(1, len(above) - 1)]
    if above[-1] >= 5 and half_way >= 3:
        return "learns"
    return "flat" if above[-1] < 3 else "at risk"


def truths(lines: Mapping[Run, Mapping[str, object]]) -> dict[Run, str]:
    """The truth of each run: "at risk" for all runs of a setting whose seeds differ."""
    by_setting = collections.defaultdict(set)
    for (setting, data, _), line in lines.items():
        by_setting[setting, data].add(truth_of_run(line))
    return {
        run: next(iter(by_setting[run[:2]])) if len(by_setting[run[:2]]) == 1 else "at risk"
        for run in lines
    }


def table(truth: Mapping[Run, str], verdicts: Mapping[Run, str]) -> str:
    """Counts of runs, a row a truth and a column a verdict."""
    counts = collections.Counter((truth[run], verdicts[run]) for run in verdicts)
    head = f"| truth \\ verdict | {' | '.join(VERDICTS)} |"
    rows = [
        f"| {name} | {' | '.join(str(counts[name, said]) for said in VERDICTS)} |"
        for name in VERDICTS
    ]
    return "\n".join([head, "|---|---|---|---|", *rows])


def by_setting(
    lines: Mapping[Run, Mapping[str, object]],
    truth: Mapping[Run, str],
    verdicts: Mapping[Run, str],
) -> str:
    """A row a setting and data set: top-1 of each seed at the end, truth, verdicts."""
    rows = [
        "| setting | data | top-1 of each seed | truth | verdict of each seed |",
        "|" + "---|" * 5,
    ]
    for name, data in dict.fromkeys((name, data) for name, data, _ in verdicts):
        of_setting = [run for run in verdicts if run[:2] == (name, data)]
        top1 = ", ".join(
            f"{lines[run]['top1'][-1]:.0%}" if lines[run]["top1"] else "stops" for run in of_setting
        )
        said = ", ".join(verdicts[run] for run in of_setting)
        rows.append(f"| {name} | {data} | {top1} | {truth[of_setting[0]]} | {said} |")
    return "\n".join(rows)


def _measure(run: Run, data_dir: str, seconds: float) -> dict[str, object]:
    setting = preflight_settings.SETTINGS[run[0]]
    keras.backend.clear_session()
    measured = measuring.measure(
        data_dir=data_dir, profile=setting.profile, options=setting.options(run[2]), seconds=seconds
    )
    return dict(zip(("setting", "data", "seed"), run, strict=True)) | dataclasses.asdict(measured)


def _judge(run: Run, figures: Mapping[str, float]) -> str:
    setting = preflight_settings.SETTINGS[run[0]]
    return rules.judge(figures, setting.profile, setting.options(run[2])).verdict


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags, measures what was not measured, and prints the tables."""
    del arguments
    lines = preflight_truth.read_results(_TRUTH.value)
    measured = preflight_truth.read_results(_MEASURES.value)
    folders = {preflight_truth.data_name(path): path for path in _DATA_DIRS.value}
    for run in lines:
        if run in measured:
            continue
        setting = preflight_settings.SETTINGS[run[0]]
        data_dir = preflight_truth.data_of(setting, folders[run[1]], _COPIES.value)
        measured[run] = _measure(run, data_dir, _SECONDS.value)
        with open(_MEASURES.value, "a") as file:
            file.write(json.dumps(measured[run]) + "\n")
        print(f"measured {run}", file=sys.stderr, flush=True)
    verdicts = {run: _judge(run, measured[run]["figures"]) for run in lines}
    truth = truths(lines)
    print(f"{by_setting(lines, truth, verdicts)}\n\n{table(truth, verdicts)}\n")
    right = sum(truth[run] == verdicts[run] for run in lines)
    return {"runs": len(lines), "right": right}


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)
