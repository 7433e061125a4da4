r"""How fast photos are served, next to the loaded model in the same process.

    python -m benchmarks.serving_speed --photos_dir=PHOTOS

PHOTOS is a folder, or a tar, of JPEGs. Without it, 200 photos are rendered that have the commonest
size of ImageNet's, 500 x 375. The network is a whole one with random weights.

  in_process      the SavedModel's signature, called by one thread a client, a photo each
  in_process_16   the same, by one thread with 16 photos a call
  rest, grpc      keras_alexnet.serving.local_server in a process of its own, a connection
                  a client; requests that wait are computed together
  rest_alone      the same, each request computed alone (--batch=1)

Each is asked first for one photo after another, then by all clients at once. Each contestant runs
in a process of its own, on two cores (the server and the clients share them), all of them in turns,
round after round. Seconds depend on what else the machine does; ratios are of runs of one round.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm
from absl import flags

from benchmarks import machine, prepare_runs, runs, serving_contestants
from benchmarks.serving_contestants import CONTESTANTS
from data_prep import command_line, files, records
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
PHOTOS_DIR = flags.DEFINE_string(
    "photos_dir",
    None,
    "Folder of photos, or of folders of photos, or a tar of them; without it, photos are rendered.",
    flag_values=FLAGS,
)
PROFILE = flags.DEFINE_string("profile", "paper", "of the network", flag_values=FLAGS)
WIDTH = flags.DEFINE_float("width", 1.0, "share of its maps", 0.01, 1.0, flag_values=FLAGS)
CLIENTS = flags.DEFINE_integer("clients", 16, "that ask at once", 1, flag_values=FLAGS)
SECONDS = flags.DEFINE_float(
    "seconds", 10.0, "how long each part of a run is timed", 0.01, flag_values=FLAGS
)
REPEATS = flags.DEFINE_integer("repeats", 5, "rounds; medians count", 1, flag_values=FLAGS)
ONLY = flags.DEFINE_list(
    "only", list(CONTESTANTS), "what to measure, separated by commas", flag_values=FLAGS
)

_CLASSES = 1000
_FIGURES = ("p50_ms", "p99_ms", "photos_per_second")
_PEERS = ("in_process", "in_process_16")
# What is hoped for: a share of the better of the peers' rates, and milliseconds over in_process.
HOPED_SHARE, HOPED_OVERHEAD_MS = 0.9, 3.0


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Export a network and run the contestants on two cores, in turns.

    Returns:
        contestants: by name p50_ms, p99_ms and photos_per_second, medians of the rounds; shares: by
        name of those over the net, photos a second over the better of the peers in that round, the
        median and the rounds; overhead_ms: their p50 less that of in_process, the same way; photos
        and machine.

    Raises:
        UserError: no such contestant, no photos, no two cores, or a contestant failed.
    """
    del arguments
    only, repeats, clients = ONLY.value, REPEATS.value, CLIENTS.value
    if unknown := sorted(set(only) - set(CONTESTANTS)):
        known = ", ".join(CONTESTANTS)
        raise UserError(f"--only must be some of {known}; {unknown[0]} is none of them")
    machine.use_two_cores()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="serving_speed.") as folder:
        originals = prepare_runs.originals(folder, PHOTOS_DIR.value)
        photos = os.path.join(folder, serving_contestants.PHOTOS)
        prepare_runs.link(photos, originals, len(originals))
        _export(os.path.join(folder, serving_contestants.MODEL), PROFILE.value, WIDTH.value)
        arguments = (f"--seconds={SECONDS.value}", f"--clients={clients}")
        with tqdm.tqdm(total=repeats * len(only), unit="run", desc="measure") as bar:
            for _ in range(repeats):
                figures = {}
                for name in only:
                    bar.set_postfix_str(name)
                    figures[name] = runs.call(
                        f"the contestant {name}",
                        "benchmarks.serving_contestants",
                        name,
                        folder,
                        *arguments,
                    )
                    bar.update()
                rounds.append(figures)
    result = {
        "contestants": {
            name: {
                figure: round(statistics.median(each[name][figure] for each in rounds), 2)
                for figure in _FIGURES
            }
            for name in only
        },
        **_compare(rounds, only),
        "photos": len(originals),
        "clients": clients,
        "network": f"{PROFILE.value}, width {WIDTH.value:g}",
        "machine": machine.describe(),
    }
    print(table(result), file=sys.stderr)
    return result


def _export(model_dir: str, profile_name: str, width: float) -> None:
    """Write version 1 of a network with random weights."""
    import keras_alexnet
    from keras_alexnet.saved_model import signatures

    profile = keras_alexnet.PROFILES[profile_name].scaled(width)
    classes = [records.ClassName(f"n{i:08d}", f"class {i}") for i in range(_CLASSES)]
    statistics_ = records.Statistics(
        count=1,
        mean_image=np.full([256, 256, 3], 120, np.float32),
        channel_mean=np.full(3, 120.0),
        channel_std=np.full(3, 60.0),
        covariance=np.eye(3),
        pca_eigenvalues=np.ones(3),
        pca_eigenvectors=np.eye(3),
    )
    os.makedirs(model_dir)
    labels_file = os.path.join(model_dir, records.LABELS)
    files.write_file(labels_file, records.labels_text(classes))
    served = signatures.ServedModel(
        model=keras_alexnet.AlexNet(profile, classes=_CLASSES, seed=0),
        profile=profile,
        classes=classes,
        statistics=statistics_,
        labels_file=labels_file,
    )
    signatures.save(served, os.path.join(model_dir, "1"))


Round = Mapping[str, Mapping[str, float]]


def _compare(rounds: Sequence[Round], only: Sequence[str]) -> dict[str, object]:
    """Return `shares` and `overhead_ms`, see `main`."""
    judged = [name for name in only if CONTESTANTS[name].protocol]
    peers = [name for name in _PEERS if name in only]
    shares, overheads = {}, {}
    for name in judged if peers else ():
        each = [
            run[name]["photos_per_second"] / max(run[peer]["photos_per_second"] for peer in peers)
            for run in rounds
        ]
        shares[name] = _median(each)
        if "in_process" in peers:
            overheads[name] = _median(
                [run[name]["p50_ms"] - run["in_process"]["p50_ms"] for run in rounds]
            )
    return {"shares": shares, "overhead_ms": overheads}


def _median(values: Sequence[float]) -> dict[str, object]:
    return {
        "median": round(statistics.median(values), 3),
        "rounds": [round(value, 3) for value in values],
    }


def table(result: Mapping[str, object]) -> str:
    """Return the result of `main` as a table for a person."""
    lines = [" ".join([f"{'':14}", *(f"{figure:>18}" for figure in _FIGURES)])]
    for name, figures in result["contestants"].items():
        lines.append(" ".join([f"{name:14}", *(f"{value:>18,}" for value in figures.values())]))
    for name, share in result["shares"].items():
        lines.append(
            f"{name}, share of the best peer's rate: {share['median']} "
            f"({', '.join(map(str, share['rounds']))}), hoped for {HOPED_SHARE}"
        )
    for name, overhead in result["overhead_ms"].items():
        lines.append(
            f"{name}, p50 over in_process: {overhead['median']} ms "
            f"({', '.join(map(str, overhead['rounds']))}), hoped for {HOPED_OVERHEAD_MS}"
        )
    about = machine.text(result["machine"])
    lines.append(
        f"{result['network']}; {result['photos']} photos; {result['clients']} clients; {about}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)
