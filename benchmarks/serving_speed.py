r"""Compare the speed of serving photos with the loaded model in the same process.

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

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence

from absl import flags

from benchmarks import contest, serving_contestants
from benchmarks import photos as photo_folders
from benchmarks.serving_contestants import CONTESTANTS
from benchmarks.train_contestants import grey_statistics
from data_prep import command_line, records

FLAGS = flags.FlagValues()
PHOTOS_DIR = photo_folders.photos_dir_flag(FLAGS)
PROFILE = flags.DEFINE_string("profile", "paper", "of the network", flag_values=FLAGS)
WIDTH = flags.DEFINE_float("width", 1.0, "share of its maps", 0.01, 1.0, flag_values=FLAGS)
CLIENTS = flags.DEFINE_integer("clients", 16, "that ask at once", 1, flag_values=FLAGS)
SECONDS = flags.DEFINE_float(
    "seconds", 10.0, "how long each part of a run is timed", 0.01, flag_values=FLAGS
)
REPEATS = contest.repeats_flag(FLAGS, 5)
ONLY = contest.only_flag(FLAGS, CONTESTANTS)

_CLASSES = 1000
_PEERS = ("in_process", "in_process_16")
# What is hoped for: a share of the better of the peers' rates, and milliseconds over in_process.
HOPED_SHARE, HOPED_OVERHEAD_MS = 0.9, 3.0


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Export a network and run the contestants on two cores, in turns.

    Returns:
        contestants: by name p50_ms, p99_ms and photos_per_second, medians of the rounds; ratios:
        see `comparisons`; photos, clients, network and machine.

    Raises:
        UserError: no photos, no two cores, or a contestant failed.
    """
    del arguments
    contest.use_two_cores()
    with tempfile.TemporaryDirectory(prefix="serving_speed.") as folder:
        originals = photo_folders.originals(folder, PHOTOS_DIR.value)
        input_dir = os.path.join(folder, serving_contestants.PHOTOS)
        photo_folders.link(input_dir, originals, len(originals))
        _export(os.path.join(folder, serving_contestants.MODEL), PROFILE.value, WIDTH.value)
        rounds = contest.rounds(REPEATS.value, ONLY.value, functools.partial(_run, folder))
    return contest.report(
        contest.medians(rounds),
        comparisons(rounds),
        photos=len(originals),
        clients=CLIENTS.value,
        network=f"{PROFILE.value}, width {WIDTH.value:g}",
    )


def _run(folder: str, name: str) -> dict[str, float]:
    """Return the figures of one run of a contestant."""
    return contest.run(
        *(f"the contestant {name}", "benchmarks.serving_contestants", name, folder),
        *(f"--seconds={SECONDS.value}", f"--clients={CLIENTS.value}"),
    ).answer


def _export(model_dir: str, profile_name: str, width: float) -> None:
    """Write version 1 of a network with random weights."""
    import keras_alexnet
    from keras_alexnet.saved_model import signatures
    from keras_alexnet.training import workdir

    profile = keras_alexnet.PROFILES[profile_name].scaled(width)
    classes = [records.ClassName(f"n{i:08d}", f"class {i}") for i in range(_CLASSES)]
    model = keras_alexnet.AlexNet(profile, classes=_CLASSES, seed=0)
    trained = workdir.TrainedRun(model, profile, tuple(classes), grey_statistics(), {})
    os.makedirs(model_dir)
    signatures.save(trained, os.path.join(model_dir, "1"))


Round = Mapping[str, Mapping[str, float]]


def comparisons(rounds: Sequence[Round]) -> dict[str, dict[str, object]]:
    """Return each server's rate and p50 beside those of the loaded model in the same round.

    `NAME / best peer` is of photos a second, `NAME - in_process, ms` of p50.
    """
    names = rounds[0]
    peers = [name for name in _PEERS if name in names]
    found = {}
    for name in names if peers else ():
        if not CONTESTANTS[name].protocol:
            continue
        shares = (
            run[name]["photos_per_second"] / max(run[peer]["photos_per_second"] for peer in peers)
            for run in rounds
        )
        found[f"{name} / best peer"] = contest.compared(shares, HOPED_SHARE)
        if "in_process" in peers:
            overheads = (run[name]["p50_ms"] - run["in_process"]["p50_ms"] for run in rounds)
            title = f"{name} - in_process, ms"
            found[title] = contest.compared(overheads, HOPED_OVERHEAD_MS)
    return found


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)
