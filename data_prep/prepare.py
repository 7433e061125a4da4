r"""Turn ImageNet, or any folders of photos, into a data set to train on.

Every photo becomes a square JPEG of 256 pixels inside shuffled TFRecord files; the mean photo and
the colour statistics that AlexNet needs are computed on the way. Photos that cannot be read are
left out and listed in rejected.jsonl; audit.html shows what else is to be known of the photos.
Stopped half-way? Run the same command again: it goes on.

The ILSVRC2012 release, from its three files ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
ILSVRC2012_devkit_t12.tar.gz, which are not unpacked:

    python -m data_prep.prepare --source=ilsvrc2012 --input_dir=DOWNLOADS --output_dir=imagenet

The same, unpacked to train/WNID/PHOTO and val/WNID/PHOTO, or as Kaggle has it:

    python -m data_prep.prepare --source=ilsvrc2012_folders --input_dir=FOLDER --output_dir=imagenet

Your own photos, from train/CLASS/PHOTO and validation/CLASS/PHOTO, or from CLASS/PHOTO with
--validation_fraction=0.1:

    python -m data_prep.prepare --source=class_folders --input_dir=PHOTOS --output_dir=photos \
        --train_shards=16 --validation_shards=4

All cores of this machine are used. Options for Apache Beam, such as another runner, follow a
lone --:   ... -- --runner=FlinkRunner --flink_master=HOST:8081
Folders may be gs://, s3:// or hdfs:// paths: pip install keras-alexnet[gcs], [s3] or pyarrow.
"""

import dataclasses
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence

import tqdm
from absl import flags

from data_prep import command_line, conversion_rule, records, sources, storage
from data_prep.command_line import UserError
from data_prep.job import finishing, folder, local_job, shards
from data_prep.job.recipe import Options
from data_prep.sources import catalog

FLAGS = flags.FlagValues()
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}


def _integer(name: str, smallest: int, largest: int, text: str) -> None:
    limits = {"lower_bound": smallest, "upper_bound": largest}
    flags.DEFINE_integer(name, _DEFAULTS[name], text, flag_values=FLAGS, **limits)


def _choice(name: str, choices: Iterable[str], text: str) -> None:
    flags.DEFINE_enum(name, _DEFAULTS[name], list(choices), text, flag_values=FLAGS)


flags.DEFINE_enum("source", None, list(sources.SOURCES), "Kind of --input_dir.", flag_values=FLAGS)
flags.DEFINE_string("input_dir", None, "Folder of the photos.", flag_values=FLAGS)
flags.DEFINE_string(
    "output_dir",
    None,
    "Folder of the data set: new, empty, or of an earlier run.",
    flag_values=FLAGS,
)
_integer("train_shards", 1, 99_999, "Number of files for the photos to train on.")
_integer("validation_shards", 1, 99_999, "Number of files for the photos to validate with.")
flags.DEFINE_float(
    "validation_fraction",
    None,
    "For --source=class_folders whose --input_dir holds the classes themselves, not yet split: the "
    "share of photos to validate with, such as 0.1. A hash of the photo decides, so equal photos "
    "are never in both, and adding photos moves none.",
    flag_values=FLAGS,
)
_integer(
    "short_side",
    conversion_rule.SMALLEST_SIZE,
    conversion_rule.LARGEST_SIZE,
    "Short side of the stored photos in pixels.",
)
_choice(
    "crop",
    conversion_rule.CROPS,
    "center: store the central square, as in 2012; none: store the whole photo.",
)
_choice(
    "fit",
    conversion_rule.FITS,
    "short_side: scale in proportion, as in 2012; warp: squeeze into a square, as Caffe does.",
)
_choice(
    "storage",
    conversion_rule.STORAGES,
    "jpeg, or raw: the pixels themselves, faster to read, about four times as large.",
)
_integer("quality", 1, 100, "Quality of the stored JPEGs.")
_choice(
    "truncated",
    conversion_rule.TRUNCATED,
    "reject: leave out photos whose end is missing; accept: fill the missing part with grey.",
)
flags.DEFINE_bool(
    "pass_through",
    _DEFAULTS["pass_through"],
    "Store a photo that is already a plain JPEG of the right size byte for byte.",
    flag_values=FLAGS,
)
_integer(
    "label_offset",
    0,
    1,
    "1: labels from 1, for readers that keep 0 for the background, as TensorFlow slim's do.",
)
flags.DEFINE_bool(
    "index",
    _DEFAULTS["index"],
    "Also write index/SHARD.index, which DALI and PyTorch's tfrecord package read.",
    flag_values=FLAGS,
)
_integer("seed", 0, 2**63 - 1, "Seed of the order of the photos.")
flags.mark_flags_as_required(["source", "input_dir", "output_dir"], flag_values=FLAGS)


def prepare(
    *, input_dir: str, output_dir: str, beam_options: Sequence[str] = (), **choices: object
) -> dict[str, object]:
    """Make the data set; what an interrupted run with the same arguments has done is kept.

    Args:
        input_dir: the folder that the source reads.
        output_dir: new, empty, or of an earlier run.
        beam_options: for Apache Beam; without any, all cores of this machine are used.
        **choices: the fields of `recipe.Options`; only `source` must be given.

    Returns:
        train_records, validation_records, rejected, repairs and notes (counts by name), problems
        (texts of the audit), shards, classes, seconds, photos_per_second (of those read in this
        run) and output_dir.

    Raises:
        ValueError: an argument or the input cannot be used.
        UserError: the job was stopped by an error.
    """
    started = time.monotonic()
    options = Options(**choices)
    if beam_options:
        _check_beam_options(beam_options)
    source = sources.open_source(
        options.source, input_dir, validation_fraction=options.validation_fraction
    )
    with catalog.Catalog(options.seed) as photos:
        photos.fill(tqdm.tqdm(source.photos, desc="list", unit="photo"))
        try:
            manifest, done = _make(photos, source.classes, options, output_dir, beam_options)
            with storage.open_file(storage.join(output_dir, records.AUDIT)) as file:
                findings = json.load(file)["findings"]
        except OSError as error:
            raise UserError(
                f"the data set cannot be written: {error}; put that right and run the same "
                "command again, finished shards are kept"
            ) from error
    problems = [finding["text"] for finding in findings if finding["level"] == "problem"]
    for problem in problems:
        print(f"prepare: {problem} See {records.AUDIT_PAGE}.", file=sys.stderr)
    seconds, splits = time.monotonic() - started, manifest.splits
    return {
        **{f"{name}_records": split.records for name, split in splits.items()},
        "rejected": sum(split.rejected for split in splits.values()),
        "repairs": dict(manifest.repairs),
        "notes": dict(manifest.notes),
        "problems": problems,
        "shards": sum(len(split.shards) for split in splits.values()),
        "classes": len(manifest.classes),
        "seconds": round(seconds, 2),
        "photos_per_second": round(done / seconds, 1),
        "output_dir": output_dir,
    }


def _make(
    photos: catalog.Catalog,
    classes: tuple[records.ClassName, ...],
    options: Options,
    output_dir: str,
    beam_options: Sequence[str],
) -> tuple[records.Manifest, int]:
    """Return the manifest of the finished data set, and the number of photos converted now."""
    recipe = options.recipe(photos, classes)
    manifest, done = folder.finished(output_dir, recipe), 0
    if manifest is None:
        with folder.claim(output_dir, recipe, photos.state) as work_dir:
            settings = shards.Settings(output_dir, work_dir, classes, options)
            plan = _plan(photos, options, work_dir)
            done = _convert(plan, settings, beam_options)
            manifest = finishing.finish(plan, settings, recipe)
    else:
        print(f"prepare: {output_dir} is finished already", file=sys.stderr)
    folder.clean(output_dir)
    return manifest, done


def _plan(photos: catalog.Catalog, options: Options, work_dir: str) -> dict[str, int]:
    counts = options.shard_counts(photos.counts)
    for split, count in counts.items():
        if count < getattr(options, f"{split}_shards"):
            print(f"prepare: {count} {split} photos make {count} shards at most", file=sys.stderr)
    try:
        return shards.write_plans(work_dir, photos, counts)
    except ValueError as error:
        raise UserError(f"{error}; rename or remove one of the two in --input_dir") from error


def _import_pipeline():
    """Import Beam late, as it takes a second, and without its warning of a missing client."""
    logging.disable(logging.WARNING)
    try:
        from data_prep.job import pipeline
    finally:
        logging.disable(logging.NOTSET)
    return pipeline


def _check_beam_options(beam_options: Sequence[str]) -> None:
    for option in beam_options:
        if option.startswith(("--s3_", "--hdfs_")):
            raise UserError(
                f"Beam's own file systems are not used, so {option.partition('=')[0]} would do "
                "nothing; set AWS_ENDPOINT_URL and the like, or write hdfs://HOST:PORT/FOLDER"
            )
    try:
        _import_pipeline().parse_options(beam_options)
    except ValueError as error:
        raise UserError(f"what follows -- goes to Apache Beam: {error}") from error


def _convert(
    plan: Mapping[str, int], settings: shards.Settings, beam_options: Sequence[str]
) -> int:
    """Run the Beam job; return the number of photos in the shards that had to be made."""
    kept = folder.finished_shards(settings.work_dir, plan)
    if kept:
        print(f"prepare: {len(kept)} of {len(plan)} shards are done already", file=sys.stderr)
    log_path = folder.log_path(settings.output_dir)
    # In a container, fewer than the machine's; macOS cannot tell.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    workers = min(cores, len(plan) - len(kept))
    # All shards: a worker checks whether one that seems done is whole.
    work = {name: 0 if name in kept else photos for name, photos in plan.items()}
    try:
        with folder.progress(settings.work_dir, plan, kept):
            if workers > 1 and not beam_options:
                local_job.run(work, settings, workers=workers, log_path=log_path)
            else:
                pipeline = _import_pipeline()
                each_shard = [(name,) for name in work]
                pipeline.run(each_shard, settings, pipeline.parse_options(beam_options))
    except Exception as error:
        reason = str(error)
        if not isinstance(error, local_job.JobError):
            reason = _import_pipeline().cause(error)
            with open(log_path, "a") as log:
                traceback.print_exc(file=log)
        raise UserError(
            f"the Beam job stopped: {reason}; put that right and run the same command again, "
            f"finished shards are kept; more is in {log_path}"
        ) from error
    return sum(work.values())


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Prepare the data set that the flags describe; `arguments` are the Beam options."""
    if arguments and not arguments[0].startswith("--"):
        raise flags.Error(f"unexpected argument {arguments[0]!r}; flags are --name=value")
    names = ["input_dir", "output_dir", *(field.name for field in dataclasses.fields(Options))]
    return prepare(beam_options=arguments, **{name: FLAGS[name].value for name in names})


def run() -> None:
    """Run the console command."""
    command_line.run(main, FLAGS, __doc__, takes_arguments=True)


if __name__ == "__main__":
    run()
