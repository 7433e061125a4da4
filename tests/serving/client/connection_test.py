"""By REST and gRPC alike; and the rule for what is sent again."""

import contextlib
import threading

import pytest
import serving_answers
from serving_answers import ask, expected, photo

from keras_alexnet.serving import client
from keras_alexnet.serving.client.connection import CallFailed, ModelSpec, Retries

both = pytest.mark.parametrize("protocol", ["http", "grpc"])


@pytest.mark.parametrize(
    "server",
    ["", "localhost:8501", "ftp://localhost:8501", "http://", "http://h:x", "http://h:99999",
     "http://h:0", "http://h:1/v1/models/x", "http://h:1?x", "http://h:1#x", "http://u:p@h:1",
     "grpc://h", "http://a..b:1", "http://[::1:2", "http://h\udcff:1"],
)  # fmt: skip
def test_what_is_no_address(server):
    with pytest.raises(ValueError, match=r"a server is http://HOST:PORT.*check server"):
        ask(server)


@pytest.mark.parametrize("server", ["http://[::1]", "https://h/", "grpc://[::1]:1", "grpcs://ü:2"])
def test_what_is_an_address(server):
    assert client.parse(server).geturl() == server.rstrip("/")


def test_other_mistakes_of_arguments():
    with pytest.raises(ValueError, match=r"certificates are for https.*leave ca_file away"):
        ask("http://h:1", ca_file="x.pem")
    with pytest.raises(ValueError, match=r"the name of a model is text.*check model"):
        ask("http://h:1", model="a\udcff")


def test_no_photos_no_request():
    assert client.classify(server="http://localhost:1", photos=[]) == []


@both
def test_unreachable_server(protocol):
    address = f"{protocol}://127.0.0.1:{serving_answers.free_port()}"
    with pytest.raises(CallFailed, match=r"cannot be reached.*start the server.*\(2 tries in"):
        ask(address, retries=1)


@both
def test_a_server_that_never_answers(protocol):
    with serving_answers.server(protocol, silent_for=photo("a")) as server:
        with pytest.raises(CallFailed, match=r"did not answer in 0\.2 s; raise deadline$"):
            ask(server, deadline=0.2)
        assert ask(server, [photo("b")]) == expected("b")


@both
def test_close_ends_the_request_under_way(protocol):
    """It is not sent again, as it would be if the server had hung up."""
    is_asked, seen, failures = threading.Event(), [], []

    def see(photos):
        seen.append(photos)
        if photos == [photo("never")]:
            is_asked.set()

    def wait():
        with pytest.raises(CallFailed) as failure:
            connection.ask([photo("never")], Retries(limit=0))
        failures.append(str(failure.value))

    spec = ModelSpec("birds", None, "serving_default")
    with (
        serving_answers.server(protocol, see, silent_for=photo("never")) as server,
        contextlib.closing(client.connect(server, spec, None)) as connection,
    ):
        connection.ask([photo("a")], Retries())
        thread = threading.Thread(target=wait)
        thread.start()
        assert is_asked.wait(30)
        connection.close()
        thread.join(30)
    assert ("broke off" if protocol == "http" else "CANCELLED") in failures[0]
    assert len(seen) == 2


@both
def test_tls(protocol, tmp_path, monkeypatch):
    own, other = serving_answers.certificate(tmp_path), serving_answers.certificate(tmp_path, "x")
    with serving_answers.server(protocol, tls=own) as server:
        assert ask(server, ca_file=own[0]) == expected("a")
        for ca_file in (None, other[0]):
            with pytest.raises(CallFailed, match=r"cannot be trusted.*check ca_file") as failure:
                ask(server, ca_file=ca_file)
            assert not failure.value.is_transient
        # Another name: gRPC may report the handshake as a connection that it could not make.
        with pytest.raises(CallFailed, match=r"cannot be (trusted|reached).*127\.0\.0\.1"):
            ask(server.replace("localhost", "127.0.0.1"), ca_file=own[0])
        if protocol == "http":
            with pytest.raises(CallFailed, match=r"broke off|did not answer"):
                ask(server.replace("https", "http"), deadline=5)
        monkeypatch.setenv("SSL_CERT_FILE", own[0])  # the system's authorities
        assert ask(server) == expected("a")
    if protocol == "http":
        with (
            serving_answers.server(protocol) as plain,
            pytest.raises(CallFailed, match=r"cannot be trusted.*speaks TLS"),
        ):
            ask(plain.replace("http", "https"), ca_file=own[0])


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_without_certificates(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    for scheme in ("https", "grpcs"):
        with pytest.raises(ValueError, match=r"PEM file of certificates is needed.*check ca_file"):
            ask(f"{scheme}://localhost:1", ca_file=str(path))


BUSY = {"is_transient": True}


@pytest.mark.parametrize(
    ("failures", "rule", "result", "slept"),
    [
        ([BUSY] * 7, {"limit": 7, "deadline": 999}, ("answer", 7), [0.5, 1, 2, 4, 8, 10, 10]),
        ([BUSY] * 2, {"random": lambda: 0.0}, ("answer", 2), [0.25, 0.5]),
        ([BUSY] * 3, {"limit": 2}, r"busy \(3 tries in 4\.5 s\)", [0.5, 1]),
        ([BUSY], {"limit": 0}, "^busy$", []),
        ([{}], {}, "^busy$", []),
        # A wait of 2 s would be beyond the deadline.
        ([BUSY] * 9, {"limit": 9, "deadline": 6}, r"3 tries in 4\.5 s", [0.5, 1]),
        ([{**BUSY, "retry_after": 7.0}], {}, ("answer", 1), [7]),
        ([{**BUSY, "retry_after": 7.0}], {"deadline": 5}, "^busy$", []),
        ([BUSY], {"sleep": lambda seconds: True}, "^busy$", []),
    ],
)
def test_retries(failures, rule, result, slept):
    """With a clock that goes on by what is slept, and by a second for each try."""
    now, sleeps, left = [100.0], [], []
    remaining = list(failures)

    def sleep(seconds):
        sleeps.append(seconds)
        now[0] += seconds

    def attempt(seconds):
        left.append(seconds)
        now[0] += 1
        if remaining:
            raise CallFailed("busy", **remaining.pop(0))
        return "answer"

    options = {"sleep": sleep, "random": lambda: 1.0, "clock": lambda: now[0], **rule}
    retries = Retries(**options)
    if isinstance(result, str):
        with pytest.raises(CallFailed, match=result):
            retries.run(attempt)
    else:
        assert retries.run(attempt) == result
    assert sleeps == slept
    passed = [0.0]
    for seconds in slept:
        passed.append(passed[-1] + 1 + seconds)
    assert left == [retries.deadline - seconds for seconds in passed]


def test_half_of_a_delay_is_chance():
    slept = []
    retries = Retries(limit=1, sleep=slept.append)

    def attempt(seconds):
        raise CallFailed("busy", is_transient=True)

    for _ in range(20):
        with pytest.raises(CallFailed):
            retries.run(attempt)
    assert len(set(slept)) > 1
    assert 0.25 <= min(slept) <= max(slept) <= 0.5
