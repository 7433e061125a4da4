"""The function and the command: against the real local_server, and against servers that fail."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest
import served
import serving_answers
import stand_in
from repository import ROOT
from serving_answers import ask, error, photo, predicted

from keras_alexnet.serving.client import connection

pytestmark = pytest.mark.slow

PHOTOS = [stand_in.photo(256, 256, seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def servers(run, tmp_path_factory):
    """Return addresses of one local_server: REST, gRPC."""
    folder = tmp_path_factory.mktemp("client") / "birds"
    stand_in.publish(folder)
    with served.serving(folder) as server:
        yield server["http"], server["grpc"]


def expected_scores(run, photos):
    return stand_in.scores(run, np.stack([stand_in.decoded(photo) for photo in photos]))


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("signature", ["serving_default", "ten_crop"])
def test_classify(run, servers, protocol, signature):
    photos = [PHOTOS[0], b"no photo", PHOTOS[1]]
    answers = ask(servers[protocol], photos, signature=signature, model_version=1)
    assert answers.pop(1) == connection.UNREADABLE
    names = [name.name for name in run.classes]
    for answer, scores in zip(answers, expected_scores(run, PHOTOS), strict=True):
        assert answer.valid
        assert answer.class_ids == tuple(names.index(name) for name in answer.classes)
        if signature == "serving_default":
            assert answer.class_ids == tuple(np.argsort(-scores)[:5])
            np.testing.assert_allclose(answer.scores, -np.sort(-scores)[:5], atol=1e-5)


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "a b/c"}, r"Latest\(a b/c\); check model"),
        ({"model_version": 9}, r"Specific\(birds, 9\); check model, model_version"),
        ({"signature": "x"}, r"not found.*exported by keras_alexnet\.export, and signature"),
        ({"signature": "classify"}, r"answers (501|UNIMPLEMENTED): .*ask TF Serving, or choose"),
    ],
)
def test_refusals_of_the_real_server(servers, protocol, options, message):
    with pytest.raises(ValueError, match=message):
        ask(servers[protocol], PHOTOS, **options)


def test_the_other_protocols_port(servers):
    rest, rpc = servers
    with pytest.raises(ValueError, match="check that server is a REST port"):
        ask(rpc.replace("grpc", "http"), PHOTOS)
    with pytest.raises(ValueError, match="check that server is a gRPC port"):
        ask(rest.replace("http", "grpc"), PHOTOS)


def start(
    *arguments, code="from keras_alexnet.serving.client.__main__ import run; run()", **options
):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(os.fsencode, map(str, arguments))],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def command(*arguments, **options):
    """(exit status, lines on stdout, lines on stderr)."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), err.splitlines()


def figures(line):
    """Return the last line, and its counts that are not 0."""
    result = json.loads(line)
    assert result["seconds"] > 0
    rate = result["images"] / result["seconds"]  # which is rounded to thousandths
    assert result["images_per_second"] == pytest.approx(rate, rel=0.2)
    return result, {name: value for name, value in result.items() if value and type(value) is int}


def by_json(address, *arguments):
    """(exit status, the best class of each photo, counts, lines on stderr joined)."""
    status, (*lines, last), err = command(f"--server={address}", "--json", *arguments)
    result, counts = figures(last)
    assert "photos" not in result
    return status, names(lines), counts, "\n".join(err)


def names(lines):
    """Return the best class of each photo, of --json."""
    return [(json.loads(line)["classes"] or [None])[0] for line in lines]


@pytest.mark.parametrize("protocol", [0, 1])
def test_command(run, servers, tmp_path, protocol):
    (tmp_path / "good.jpg").write_bytes(PHOTOS[0])
    code = (
        "import sys\n"
        "from keras_alexnet.serving.client import __main__ as client\n"
        "try: client.run()\n"
        "finally: print({'tensorflow', 'keras', 'numpy'} & set(sys.modules), file=sys.stderr)\n"
    )
    flags = [f"--server={servers[protocol]}", "--model=birds"]
    status, (*table, last), err = command(*flags, tmp_path / "good.jpg", code=code)
    assert (status, err) == (0, ["set()"])  # not imported
    result, counts = figures(last)
    assert counts == {"images": 1}
    scores = expected_scores(run, PHOTOS[:1])[0]
    best = run.classes[int(scores.argmax())].name
    assert result["photos"][0]["classes"][0] == best
    assert f"{scores.max():.2%}" in table[1]
    assert table[1].endswith(best)


@pytest.fixture
def folder(tmp_path):
    """Return the paths of 40 photos, b"photo 00" to b"photo 39"."""
    for number in range(40):
        path = tmp_path / f"folder {number // 10}" / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(f"{number:02}"))
    return tmp_path


ALL = [f"class of {number:02}" for number in range(40)]


def test_a_folder_in_batches_some_at_a_time(server, folder):
    at_a_time = threading.Barrier(3)  # the first three requests wait for each other
    turn = threading.Semaphore(3)

    def answer(asked):
        if turn.acquire(blocking=False):
            at_a_time.wait(60)
        return predicted(asked)

    server.answer = answer
    outcome = by_json(server.address, "--batch_size=7", "--parallel=3", folder)
    assert outcome == (0, ALL, {"images": 40}, "")
    assert sorted(len(asked.photos) for asked in server.asked) == [5, 7, 7, 7, 7, 7]
    assert len({asked.port for asked in server.asked}) == 3


def test_a_line_of_json(server, tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo("a"))
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "none")
    status, (*lines, last), (err,) = command(f"--server={server.address}", "--json", tmp_path)
    a, b, c = map(json.loads, lines)
    assert a.pop("seconds") == b.pop("seconds") > c.pop("seconds") == 0
    nothing = {"classes": [], "class_ids": [], "scores": []}
    assert a == {
        "photo": str(tmp_path / "a.jpg"),
        "valid": True,
        "classes": ["class of a", "other"],
        "class_ids": [1, 3],
        "scores": [0.75, 0.25],
        "error": None,
    }
    assert b == {"photo": str(tmp_path / "b.jpg"), "valid": False, "error": None, **nothing}
    reason = "cannot be read: No such file or directory"
    assert c == {"photo": str(tmp_path / "c.jpg"), "valid": None, "error": reason, **nothing}
    assert (status, figures(last)[1]) == (1, {"images": 2, "invalid": 1, "failed": 1})
    assert f"1 of 3 could not be asked for: {tmp_path}/c.jpg ({reason}); 1 of 3 is no" in err


def test_the_table(server, tmp_path):
    """With what a server and a disk may put into names."""
    odd = os.fsdecode(b"\xff\x1b[31m\n.jpg")
    (tmp_path / "a.jpg").write_bytes(photo("\x1b[2J\r\n"))
    (tmp_path / odd).write_bytes(b"no photo")
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / ("x" * 100 + ".jpg")).write_bytes(photo("b"))
    (tmp_path / "z.txt").write_bytes(b"")
    status, (*table, last), (err,) = command(f"--server={server.address}", tmp_path)
    assert (status, figures(last)[1]) == (1, {"images": 3, "invalid": 1, "skipped": 1})
    assert err.endswith(f"can read: {tmp_path}/\ufffd\ufffd[31m\ufffd.jpg")
    assert table[0].split() == ["photo", "score", "time", "class"]
    assert table[1].startswith(f"{tmp_path}/a.jpg ")
    assert table[1].endswith(" ms  class of \ufffd[2J")  # the stand-in strips the line's end
    assert table[2].split() == ["25.00%", "other"]
    assert f"/long/{'x' * 100}.jpg   75.00%" in table[3]
    assert table[5].startswith(f"{tmp_path}/\ufffd\ufffd[31m\ufffd.jpg")
    assert table[5].endswith("no photo that the server can read")
    assert len(table) == 6


def test_the_last_line_lists_the_photos_if_they_are_few(server, tmp_path):
    """The first five photos without classes are named on stderr."""
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    for count in (100, 101):
        arguments = [tmp_path / "a.jpg"] * count
        status, (*_, last), (err,) = command(f"--server={server.address}", *arguments)
        result, counts = figures(last)
        assert (status, counts) == (1, {"images": count, "invalid": count})
        assert len(result.get("photos", [])) == (100 if count == 100 else 0)
        assert err.count("a.jpg") == 5
        assert err.endswith(f"; {count - 5} more")


def test_photos_are_read_when_their_turn_comes(server, folder):
    """The last one is taken away when the first is asked for: nothing has read it so far."""
    paths = sorted(folder.glob("*/*.jpg"))

    def answer(asked):
        paths[-1].unlink(missing_ok=True)
        return predicted(asked)

    server.answer = answer
    faulty = "/proc/self/mem"  # opens, and then cannot be read, whoever asks
    *outcome, err = by_json(server.address, "--batch_size=2", faulty, *paths)
    assert outcome == [1, [None, *ALL[:-1], None], {"images": 39, "failed": 2}]
    assert "2 of 41 could not be asked for: /proc/self/mem (cannot be read: Input/output" in err
    assert "39.jpg (cannot be read: No such file or directory)" in err


def test_a_pipe(server, tmp_path):
    """A shell makes such a file of <(a command)."""
    os.mkfifo(tmp_path / "pipe")
    process = start(f"--server={server.address}", "--json", tmp_path / "pipe")
    (tmp_path / "pipe").write_bytes(photo("a"))
    out, _ = process.communicate(timeout=60)
    assert names(out.splitlines()[:1]) == ["class of a"]


def test_what_is_too_large_for_the_server(server, folder):
    """Batches are halved until they fit; a photo that does not fit alone is named."""
    (folder / "folder 0" / "03.jpg").write_bytes(photo("03", 3000))

    def answer(asked):
        size = sum(map(len, asked.photos))
        return error(413, "too large") if size > 200 else predicted(asked)

    server.answer = answer
    *outcome, err = by_json(server.address, "--batch_size=40", folder)
    assert outcome == [1, [*ALL[:3], None, *ALL[4:]], {"images": 39, "failed": 1}]
    assert "03.jpg (http://127.0.0.1" in err


@pytest.mark.parametrize(
    # In base64, the fifth photo has 101,000 bytes, and the last one too many.
    ("protocol", "without"),
    [("http", (5, 6)), ("grpc", (5,))],
)
def test_no_request_is_above_the_limit(tmp_path, protocol, without):
    sizes = [100, 30_000, 60_000, 100, 76_000, 105_000, 90_000]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.jpg").write_bytes(photo(str(number), size))
    requests = []
    with serving_answers.server(protocol, requests.append) as address:
        *outcome, err = by_json(address, "--request_mb=0.09765625", tmp_path)
    best = [None if n in without else f"class of {n}" for n in range(7)]
    assert outcome == [1, best, {"images": 7 - len(without), "failed": len(without)}]
    assert "more than the 102400 bytes that a request may have; raise request_mb" in err
    assert ("6.jpg (a request of 120" in err) == (protocol == "http")
    ratio = 4 / 3 if protocol == "http" else 1
    assert max(ratio * sum(map(len, photos)) for photos in requests) < 102_400
    assert len(requests) < 6


def test_503_twice(server, folder):
    remaining = [error(503, "busy"), error(503, "busy")]
    server.answer = lambda asked: remaining.pop() if remaining else predicted(asked)
    assert by_json(server.address, folder) == (0, ALL, {"images": 40, "retries": 2}, "")


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_dies(folder, protocol, comes_back):
    port = serving_answers.free_port()
    answered, count = threading.Event(), []

    def see(photos):
        count.append(photos)
        if len(count) == 5:
            answered.set()

    flags = [f"--server={protocol}://127.0.0.1:{port}", "--batch_size=1", "--parallel=1", "--json"]
    with serving_answers.server(protocol, see, port=port):
        process = start(*flags, f"--retries={20 if comes_back else 0}", folder)
        assert answered.wait(60)
    with serving_answers.server(protocol, port=port) if comes_back else contextlib.nullcontext():
        out, err = process.communicate(timeout=120)
    *lines, last = out.splitlines()
    result = json.loads(last)
    if comes_back:
        assert (process.returncode, err, names(lines)) == (0, "", ALL)
        return
    assert process.returncode == 1
    assert 4 <= result["images"] < 40
    assert result["failed"] == 2  # the third in a row ends it
    (line,) = err.splitlines()
    assert "cannot be reached" in line


def test_a_request_that_fails_costs_its_photos_alone(server, folder):
    oops = error(500, "oops")
    server.answer = lambda asked: oops if photo("20") in asked.photos else predicted(asked)
    *outcome, err = by_json(server.address, "--batch_size=8", folder)
    assert outcome == [1, [*ALL[:16], *[None] * 8, *ALL[24:]], {"images": 32, "failed": 8}]
    assert "8 of 40 could not be asked for" in err
    assert "answers 500: oops" in err


def test_a_command_that_is_wrong_ends_at_once(server, folder):
    """The second request, if it is sent, is not answered."""
    refused = error(404, "no such model")
    server.answer = lambda asked: refused if photo("00") in asked.photos else None
    status, out, (err,) = command(f"--server={server.address}", "--parallel=1", folder)
    assert len(server.asked) <= 2
    assert (status, out) == (1, [])
    assert err.endswith("answers 404: no such model; check model, model_version and server")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_ctrl_c(folder, protocol):
    """While a request is under way that will not be answered."""
    with serving_answers.server(protocol, silent_for=photo("20")) as address:
        process = start(f"--server={address}", "--json", "--batch_size=5", folder)
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert names(lines) == ALL[:20]
    assert (process.returncode, out) == (130, "")
    assert err == "-c: interrupted; run the same command again to go on\n"


def test_a_reader_that_leaves(server, folder):
    process = start(f"--server={server.address}", "--json", "--batch_size=1", folder)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 1
    (line,) = err.splitlines()
    assert "stdout was closed after" in line


def test_progress_is_shown_if_the_answers_go_elsewhere(server, folder):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    process = start(f"--server={server.address}", "--json", folder, stderr=theirs)
    out, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "classify: 40photo" in shown
    assert names(out.splitlines()[:-1]) == ALL


def test_mistakes(tmp_path):
    """Before anything is sent: there is no server."""
    (tmp_path / "good.jpg").write_bytes(PHOTOS[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no photo")
    server = f"--server=http://127.0.0.1:{serving_answers.free_port()}"
    good = tmp_path / "good.jpg"
    for arguments, status, message in (
        ([server], 1, "at least one photo is needed"),
        ([server, good, tmp_path / "none.jpg"], 1, "No such file"),
        ([server, tmp_path / "empty"], 1, "has none (.jpg .jpeg .jpe .jfif .png; 1 other files)"),
        ([server, "--retries=1", good], 1, "cannot be reached"),
        (["--server=localhost", good], 1, "a server is http://HOST:PORT"),
        (["--server=https://h:1", "--ca_file=/none", good], 1, "check ca_file"),
        (["--modle=x", good], 2, "Unknown command line flag 'modle'"),
        (["--batch_size=0", good], 2, "batch_size"),
    ):
        returned, out, (line,) = command(*arguments)
        assert (returned, out) == (status, [])
        assert message in line
