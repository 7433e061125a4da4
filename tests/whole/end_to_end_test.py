"""The whole road by the commands themselves, in small, and what they say of wrong input."""

import json
import re
import signal
import subprocess
import sys

import commands
import photo_sample
import pytest
import train_runs
from commands import in_process
from PIL import Image
from repository import ROOT

pytestmark = pytest.mark.slow

TRAINING = (
    "--width=0.0625",
    "--kernel_init=he_normal",
    "--bias_init=0",
    "--pixel_scale=0.0167",
    "--batch_size=8",
    "--epochs=2",
)


def command(module, *arguments, check=True):
    done = commands.in_new_process(module, *arguments)
    if check:
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
    return done


def start_server(model_dir):
    """Return the server's process and address, once it is ready."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_alexnet.serving.local_server"),
            *(f"--model_dir={model_dir}", "--rest_port=0", "--grpc_port=0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    for line in server.stderr:
        if match := re.match(r"ready: .* at (http://\S+)", line):
            return server, match[1]
    raise AssertionError("the server ended before it was ready")


def travel(data, tmp_path, photos):
    """verify, train, evaluate, export, serve and classify over a prepared data set."""
    work, models = tmp_path / "work", tmp_path / "models" / "alexnet"
    assert command("data_prep.verify", f"--data_dir={data}", "--statistics")["faults"] == 0
    folders = (f"--workdir={work}", f"--data_dir={data}")
    trained = command("keras_alexnet.train", *folders, *TRAINING)
    assert trained["epochs"] == 2
    for views in (1, 10):
        figures = command("keras_alexnet.evaluate", *folders, f"--views={views}")
        assert figures["images"] == trained["images"]
        assert 0 <= figures["top1"] <= figures["top5"] <= 1
    exported = command("keras_alexnet.export", *folders, f"--export_dir={models}")
    assert exported["version"] == 1
    server, address = start_server(models)
    try:
        answer = command("keras_alexnet.serving.client", f"--server={address}", *photos)
    finally:
        server.send_signal(signal.SIGTERM)
        served = json.loads(server.communicate(timeout=60)[0].splitlines()[-1])
    assert server.returncode == 0
    assert served
    return answer


def test_rendered_photos_go_the_whole_road(tmp_path):
    release, data = tmp_path / "release", tmp_path / "data"
    drawn = command(
        "data_prep.rehearsal",
        *(f"--output_dir={release}", "--classes=3", "--images_per_class=12"),
        "--validation_per_class=4",
    )
    prepared = command(
        "data_prep.prepare",
        *("--source=ilsvrc2012", f"--input_dir={release}", f"--output_dir={data}"),
        *("--train_shards=2", "--validation_shards=1"),
    )
    assert prepared["train_records"] + prepared["rejected"] == 36
    photos = [release / name for name in drawn["held_out"]]
    answer = travel(data, tmp_path, photos)
    assert len(answer["photos"]) == 3
    labels = (data / "labels.txt").read_text()
    for photo in answer["photos"]:
        assert len(photo["classes"]) == 3
        assert all(f"\t{name}\n" in labels for name in photo["classes"])
        assert sum(photo["scores"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.soak
def test_real_photos_go_the_whole_road(tmp_path):
    photos = []
    for name, data in photo_sample.photo_files():
        photos.append(tmp_path / name)
        photos[-1].write_bytes(data)
    photos.sort()
    third = len(photos) // 3
    groups = {"animal": photos[:third], "thing": photos[third:-third], "place": photos[-third:]}
    for name, members in groups.items():
        for index, photo in enumerate(members):
            folder = tmp_path / "photos" / ("validation" if index % 5 == 0 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / photo.name).symlink_to(photo)
    data = tmp_path / "data"
    prepared = command(
        "data_prep.prepare",
        *("--source=class_folders", f"--input_dir={tmp_path / 'photos'}"),
        *(f"--output_dir={data}", "--train_shards=2", "--validation_shards=1"),
    )
    assert prepared["train_records"] == len(photos) * 4 // 5
    assert prepared["validation_records"] == len(photos) // 5
    answer = travel(data, tmp_path, photos[:3])
    assert {name for photo in answer["photos"] for name in photo["classes"]} == set(groups)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keras_alexnet.evaluate", "--data_dir={tmp}", "--workdir={tmp}"), "keras_alexnet.train"),
        (("keras_alexnet.evaluate", "--data_dir=a", "--workdir=b", "--views=3"), "views"),
        (
            ("keras_alexnet.export", "--data_dir={tmp}", "--workdir={tmp}", "--export_dir={tmp}/m"),
            "keras_alexnet.train is needed",
        ),
        (("keras_alexnet.quickstart", "--run_dir={tmp}/note.txt"), "{tmp}/note.txt"),
        (("data_prep.verify", "--data_dir={tmp}"), "manifest.json"),
    ],
)
def test_a_mistake_gets_one_line_and_no_traceback(tmp_path, arguments, message):
    (tmp_path / "note.txt").write_text("no folder")
    done = in_process(*(a.format(tmp=tmp_path) for a in arguments))
    lines = train_runs.own_lines(done.stderr)
    assert done.returncode in (1, 2)
    assert len(lines) == 1, lines
    assert message.format(tmp=tmp_path) in lines[0]


def test_help_is_for_newcomers():
    for module in (
        *("data_prep.rehearsal", "data_prep.prepare", "data_prep.verify"),
        *("keras_alexnet.train", "keras_alexnet.evaluate", "keras_alexnet.export"),
        *("keras_alexnet.serving.client", "keras_alexnet.serving.local_server"),
    ):
        done = in_process(module, "--help")
        assert done.returncode == 0
        assert f"python -m {module}" in done.stdout
        assert "Flags:" in done.stdout
        assert "Traceback" not in done.stderr


def test_readme_commands_exist():
    """Every flag and module that README shows is one that the command has."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ *python -m (\S+)(.*)$", text, re.MULTILINE)
    assert commands
    for module, rest in commands:
        known = in_process(module, "--help").stdout
        for flag in re.findall(r"--(\w+)", rest.split(" -- ")[0]):
            assert f"--{flag}=" in known, (module, flag)


def test_keras_alexnet_does_not_need_beam():
    code = "import keras_alexnet.train, sys; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_photo_that_is_no_photo_is_refused_before_the_server_is_asked(tmp_path):
    done = command(
        "keras_alexnet.serving.client",
        *("--server=http://127.0.0.1:1", tmp_path / "absent.jpg"),
        check=False,
    )
    assert done.returncode == 1
    assert "absent.jpg" in done.stderr
    Image.new("RGB", (8, 8)).save(tmp_path / "there.jpg")
    done = command(
        "keras_alexnet.serving.client",
        *("--server=http://127.0.0.1:1", tmp_path / "there.jpg"),
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
