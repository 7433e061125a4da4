import contextlib
import json
import socket
import threading

import pytest
import serving_answers
from serving_answers import Reply, error, photo, predicted, raw_server, rest_server

from keras_alexnet.serving.client import rest_connection
from keras_alexnet.serving.client.connection import (
    UNREADABLE,
    Answer,
    CallFailed,
    ModelSpec,
    Retries,
    parse,
)

SPEC = ModelSpec("birds", None, "serving_default")


@contextlib.contextmanager
def connected(server, spec=SPEC, ca_file=None):
    address = parse(server)
    with contextlib.closing(rest_connection.Connection(address, spec, ca_file)) as connection:
        yield connection


def ask(server, photos=(b"photo a",), spec=SPEC, seconds=30.0, ca_file=None):
    with connected(server, spec, ca_file) as connection:
        return connection.ask(connection.encode(photos), seconds)


def expected(*names):
    return [
        Answer(True, (f"class of {name}", "other"), (len(name), 3), (0.75, 0.25)) for name in names
    ]


def test_predict():
    photos = [photo("a"), b"\xff\x00", photo("bcd")]
    with rest_server() as server:
        answers = ask(server.address, photos)
    assert answers == [expected("a")[0], UNREADABLE, expected("bcd")[0]]
    (asked,) = server.asked
    assert asked.path == "/v1/models/birds:predict"
    assert asked.photos == photos  # decoded as strictly as base64 can be
    assert asked.document["signature_name"] == "serving_default"
    assert asked.document.keys() == {"signature_name", "inputs"}
    assert asked.document["inputs"].keys() == {"image_bytes"}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (ModelSpec("a b/c:d", None, "ten_crop"), "/v1/models/a%20b%2Fc%3Ad:predict"),
        (ModelSpec("birds", 12, "ten_crop"), "/v1/models/birds/versions/12:predict"),
        (ModelSpec("birds", 0, "classify"), "/v1/models/birds/versions/0:classify"),
    ],
)
def test_whom_it_asks(spec, path):
    with rest_server(lambda asked: error(404, "x")) as server, pytest.raises(CallFailed):
        ask(server.address, spec=spec)
    assert server.asked[0].path == path
    assert server.asked[0].document["signature_name"] == spec.signature


# As TF Serving prints it: numbers in exponents, names that are no UTF-8 as they are.
PREDICTED = b"""{
    "outputs": {
        "scores": [
            [
                0.999990344,
                9.65e-06
            ],
            [
                0.0,
                0.0
            ]
        ],
        "classes": [
            [
                "na\xc3\xafve",
                "bad \xff"
            ],
            [
                "",
                ""
            ]
        ],
        "class_ids": [
            [
                1,
                0
            ],
            [
                0,
                0
            ]
        ],
        "valid": [
            true,
            false
        ]
    }
}"""
CLASSIFIED = b"""{
    "results": [
        [["robin", 0.75], ["wren", 1e-05]
        ],
        [["", 0.0], ["", 0.0]
        ]
    ]
}"""


def test_recorded_answers():
    two = [photo("a"), b"x"]
    with rest_server(lambda asked: Reply(body=PREDICTED)) as server:
        answer, other = ask(server.address, two)
    assert answer == Answer(True, ("naïve", "bad \ufffd"), (1, 0), (0.999990344, 9.65e-06))
    assert other == UNREADABLE
    spec = ModelSpec("birds", None, "classify")
    with rest_server(lambda asked: Reply(body=CLASSIFIED)) as server:
        assert ask(server.address, two, spec) == [
            Answer(True, ("robin", "wren"), (), (0.75, 1e-05)),
            UNREADABLE,
        ]
    assert server.asked[0].photos == two
    assert [list(example) for example in server.asked[0].document["examples"]] == [
        ["image/encoded"],
        ["image/encoded"],
    ]


def chunked(body, size):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return Reply(body=b"".join(framed) + b"0\r\n\r\n", headers={"Transfer_Encoding": "chunked"})


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_an_answer_in_chunks(size):
    with rest_server(lambda asked: chunked(predicted(asked).body, size)) as server:
        assert ask(server.address) == expected("a")


def test_a_large_answer():
    outputs = serving_answers.outputs([photo("a")])
    body = json.dumps({"outputs": {**outputs, "more": ["x" * (20 << 20)]}}).encode()
    with rest_server(lambda asked: Reply(body=body)) as server:
        assert ask(server.address) == expected("a")


def test_an_answer_that_ends_with_the_connection():
    def answer(asked):
        return Reply(raw=b"HTTP/1.0 200 OK\r\n\r\n" + predicted(asked).body)

    with rest_server(answer) as server, connected(server.address) as connection:
        for _ in range(2):
            assert connection.ask(connection.encode([photo("a")]), 30) == expected("a")


@pytest.mark.parametrize("header", [b"Content-Length: 99999999999\r\n", b""])
def test_an_answer_that_is_too_large(header, monkeypatch):
    monkeypatch.setattr(rest_connection, "MAX_ANSWER_BYTES", 1000)
    raw = b"HTTP/1.1 200 OK\r\n" + header + b"\r\n" + b" " * 2000
    with (
        rest_server(lambda asked: Reply(raw=raw)) as server,
        pytest.raises(CallFailed, match="sends more than"),
    ):
        ask(server.address)


HTML = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n</BODY></HTML>\n"
NO_MODEL = "Servable not found for request: Latest(birds)"


@pytest.mark.parametrize(
    ("reply", "message", "kind"),
    [
        (error(404, NO_MODEL), r"answers 404: Servable.*\(birds\); check model, m", ""),
        (Reply(404, HTML), r"answers 404: <HTML><HEAD> <TITLE>404 Not Found</TITLE>.*server", ""),
        (Reply(404), r"answers 404: \(nothing\); check", ""),
        (error(400, "Malformed request: POST /x"), "answers 400: Malformed.*export, and sig", ""),
        (error(400, "a body of at most 9 bytes"), "400: a body.*raise the limit", "too_large"),
        (Reply(413, b"no"), "answers 413: no; raise the limit", "too_large"),
        (error(429, "full"), "answers 429: full; try again", "transient"),
        (error(503, "The batch queue is full"), "answers 503: The.*; try again", "transient"),
        (Reply(502, b"<html>bad gateway</html>"), "answers 502: <html>bad", "transient"),
        (error(500, "oops"), "answers 500: oops; try again", ""),
        (error(504, "late"), "answers 504: late; try again", ""),
        (Reply(301, b"", {"Location": "http://x/"}), r"answers 301: \(nothing\)", ""),
        (Reply(400, b"[" * 100000), r"answers 400: \[\[\[", ""),
        (Reply(400, b'{"error": 3}'), "answers 400: 3;", ""),
        (Reply(body=b"<html>hello</html>"), "does not answer as TF Serving.*<html>hello", ""),
        (Reply(body=b"[]"), "does not answer as TF Serving does", ""),
        (Reply(body=b"[" * 100000), "does not answer as TF Serving does", ""),
        (Reply(body=b'{"predictions": []}'), "does not answer as TF Serving does", ""),
        (Reply(body=PREDICTED[:-9]), "does not answer as TF Serving does", ""),
    ],
)
def test_refusals(reply, message, kind):
    with (
        rest_server(lambda asked: reply) as server,
        pytest.raises(CallFailed, match=message) as failure,
    ):
        ask(server.address)
    assert failure.value.is_transient == (kind == "transient")
    assert failure.value.is_too_large == (kind == "too_large")
    assert "\n" not in str(failure.value)


GOOD = serving_answers.outputs([photo("a")])


@pytest.mark.parametrize(
    "outputs",
    [
        [1],  # a signature with one output has no names
        {},
        {**GOOD, "valid": 3},
        {**GOOD, "valid": [1]},
        {**GOOD, "valid": {"a": True}},
        {**GOOD, "classes": [["x"]]},
        {**GOOD, "classes": [[1, 2]]},
        {**GOOD, "classes": ["xy"], "scores": [[0.5]]},
        {**GOOD, "classes": [[]], "scores": [[]], "class_ids": [[]]},
        {**GOOD, "class_ids": [[1.5, 2]]},
        {**GOOD, "class_ids": [[True, False]]},
        {**GOOD, "class_ids": [[1]]},
        {**GOOD, "scores": [[float("nan"), 0.0]]},
        {**GOOD, "scores": [["0.5", "0.5"]]},
        {**GOOD, "scores": []},
        {name: column * 2 for name, column in GOOD.items()},
    ],
)
def test_another_kind_of_model(outputs):
    body = json.dumps({"outputs": outputs}).encode()
    message = r"serves 'birds', but does not answer as a model that keras_alexnet\.export wrote"
    with (
        rest_server(lambda asked: Reply(body=body)) as server,
        pytest.raises(CallFailed, match=message),
    ):
        ask(server.address)


@pytest.mark.parametrize("results", [[], [[["a", 1], ["b"]]], [["ab"]], [[["a", "b"]]], {}, [3]])
def test_another_kind_of_classification(results):
    body = json.dumps({"results": results}).encode()
    spec = ModelSpec("birds", None, "classify")
    with (
        rest_server(lambda asked: Reply(body=body)) as server,
        pytest.raises(CallFailed, match="does not answer as a model"),
    ):
        ask(server.address, spec=spec)


def in_turn(*replies):
    """Each once, then right answers."""
    remaining = list(replies)
    return lambda asked: remaining.pop(0) if remaining else predicted(asked)


HALF = Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + PREDICTED[:100])
HALF_A_CHUNK = Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{")
HANGS_UP = Reply(raw=b"")
HALF_A_HEADER = Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le")


def run(server, **rule):
    slept = []
    retries = Retries(sleep=slept.append, random=lambda: 1.0, **rule)
    with connected(server) as connection:
        request = connection.encode([photo("a")])
        return (*retries.run(lambda seconds: connection.ask(request, seconds)), slept)


@pytest.mark.parametrize(
    "replies",
    [
        [error(503, "busy"), error(503, "busy")],
        [HANGS_UP, error(429, "full")],
        [HALF, HALF_A_CHUNK],
        [HALF_A_HEADER, HALF_A_HEADER],
    ],
)
def test_what_is_tried_again(replies):
    with rest_server(in_turn(*replies)) as server:
        assert run(server.address) == (expected("a"), 2, [0.5, 1.0])
        assert len(server.asked) == 3


def test_retry_after():
    replies = [error(503, "x", Retry_After="3"), error(503, "x", Retry_After="Wed, 21 Oct 2015")]
    with rest_server(in_turn(*replies)) as server:
        assert run(server.address) == (expected("a"), 2, [3.0, 1.0])


@pytest.mark.parametrize(
    ("reply", "tries", "message"),
    [
        (error(503, "busy"), 3, r"answers 503: busy; try again.*\(3 tries in"),
        (HALF, 3, r"broke off the connection \(IncompleteRead\).*\(3 tries in"),
        (HANGS_UP, 3, r"broke off the connection \(RemoteDisconnected\).*\(3 tries in"),
        (
            Reply(raw=b"\0\0\6\4\0\0\0\0\0\n"),
            1,
            r"\(BadStatusLine\); check that server is a REST",
        ),
        (error(404, NO_MODEL), 1, "check model"),
        (error(400, "wrong"), 1, "answers 400: wrong"),
    ],
)
def test_what_is_not_answered_in_the_end(reply, tries, message):
    with rest_server(lambda asked: reply) as server:
        with pytest.raises(CallFailed, match=message):
            run(server.address, limit=2)
        assert len(server.asked) == tries


def test_a_connection_is_kept():
    with rest_server() as server, connected(server.address) as connection:
        for _ in range(3):
            connection.ask(connection.encode([photo("a")]), 30)
    assert len({asked.port for asked in server.asked}) == 1


def test_a_connection_that_was_closed_while_idle_costs_no_retry():
    """The first answer's header does not say that the server is about to hang up."""

    def answer(asked):
        body = predicted(asked).body
        return Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with rest_server(answer) as server, connected(server.address) as connection:
        for _ in range(3):
            assert connection.ask(connection.encode([photo("a")]), 30) == expected("a")
    assert len({asked.port for asked in server.asked}) == 3


def test_a_server_that_never_answers():
    with (
        rest_server(lambda asked: None) as server,
        pytest.raises(CallFailed, match=r"did not answer in 0\.2 s; raise deadline$"),
    ):
        ask(server.address, seconds=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    [b"X: ", b"Content-Length: 99\r\n\r\n", b"\r\n", b"\r\n" + PREDICTED],
    ids=["header", "body", "body without length", "body that may be whole"],
)
def test_an_answer_that_drips_in(begin):
    """Each byte in time, all together too late: it is not waited for to the end."""
    end, is_whole = threading.Event(), threading.Event()

    def talk(connection):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + begin)
        for _ in range(100):
            if end.wait(0.05):
                return
            connection.sendall(b" ")
        is_whole.set()

    with raw_server(talk) as server:
        try:
            with pytest.raises(CallFailed, match=r"did not answer in 0\.5 s"):
                ask(server, [photo("a"), b"x"], seconds=0.5)
            assert not is_whole.is_set()
        finally:
            end.set()


def test_a_server_that_does_not_read():
    end = threading.Event()
    with raw_server(lambda connection: end.wait(60)) as server:
        try:
            with pytest.raises(CallFailed, match=r"did not answer in 0\.3 s"):
                ask(server, [photo("a", 20 << 20)], seconds=0.3)
        finally:
            end.set()


def test_a_refusal_before_the_request_is_read():
    """As proxies do it with what is too large."""

    def talk(connection):
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        connection.shutdown(socket.SHUT_WR)
        # What was sent until then is thrown away; then the connection is reset.
        connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while connection.recv(1 << 16):
                break

    with raw_server(talk) as server, pytest.raises(CallFailed, match="answers 413: no") as failure:
        ask(server, [photo("a", 20 << 20)])
    assert failure.value.is_too_large


def test_no_server():
    server = f"http://127.0.0.1:{serving_answers.free_port()}"
    with pytest.raises(CallFailed, match=r"cannot be reached \(Connection refused\)") as failure:
        ask(server)
    assert failure.value.is_transient
    with pytest.raises(CallFailed, match=r"cannot be found.*check server") as failure:
        ask("http://no.such.host.invalid:80")
    assert not failure.value.is_transient


def test_close_ends_the_request_under_way():
    """Which is not sent again, as it would be if the server had hung up."""
    is_asked = threading.Event()
    failures = []

    def answer(asked):
        if photo("never") not in asked.photos:
            return predicted(asked)
        is_asked.set()
        return None

    def wait(connection):
        try:
            connection.ask(connection.encode([photo("never")]), 50)
        except CallFailed as failure:
            failures.append(str(failure))

    with rest_server(answer) as server, connected(server.address) as connection:
        connection.ask(connection.encode([photo("a")]), 30)
        thread = threading.Thread(target=wait, args=(connection,))
        thread.start()
        assert is_asked.wait(30)
        connection.close()
        thread.join(30)
        assert "broke off" in failures[0]
        assert len(server.asked) == 2


def test_tls(tmp_path):
    own, other = serving_answers.certificate(tmp_path), serving_answers.certificate(tmp_path, "x")
    with rest_server(tls=own) as server:
        with connected(server.address, ca_file=own[0]) as connection:
            for _ in range(2):
                assert connection.ask(connection.encode([photo("a")]), 30) == expected("a")
        assert len({asked.port for asked in server.asked}) == 1
        for ca_file in (None, other[0]):
            with pytest.raises(CallFailed, match=r"cannot be trusted.*check ca_file") as failure:
                ask(server.address, ca_file=ca_file)
            assert not failure.value.is_transient
        with pytest.raises(CallFailed, match=r"cannot be trusted.*127\.0\.0\.1"):  # another name
            ask(server.address.replace("localhost", "127.0.0.1"), ca_file=own[0])
        with pytest.raises(CallFailed, match=r"broke off|did not answer"):
            ask(server.address.replace("https", "http"), seconds=5)
    with rest_server() as plain, pytest.raises(CallFailed, match=r"cannot be trusted.*speaks TLS"):
        ask(plain.address.replace("http", "https"), ca_file=own[0])


def test_the_systems_authorities(tmp_path, monkeypatch):
    own = serving_answers.certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", own[0])
    with rest_server(tls=own) as server:
        assert ask(server.address) == expected("a")


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_without_certificates(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"PEM file of certificates is needed.*check ca_file"):
        ask("https://localhost:1", ca_file=str(path))


def test_proxies_netrc_cookies_and_redirects_are_not_used(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{serving_answers.free_port()}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    body = serving_answers.outputs([photo("a")])
    good = Reply(body=json.dumps({"outputs": body}).encode(), headers={"Set-Cookie": "a=b"})
    with rest_server() as other:
        moved = Reply(307, b"", {"Location": f"{other.address}/x", "Set-Cookie": "a=b"})
        with (
            rest_server(in_turn(good, moved, good)) as server,
            connected(server.address) as connection,
        ):
            assert connection.ask(connection.encode([photo("a")]), 30) == expected("a")
            with pytest.raises(CallFailed, match="answers 307"):
                connection.ask(connection.encode([photo("a")]), 30)
            assert connection.ask(connection.encode([photo("a")]), 30) == expected("a")
        assert not other.asked
    assert len(server.asked) == 3
    for asked in server.asked:
        assert not {"Authorization", "Cookie"} & asked.headers.keys()
