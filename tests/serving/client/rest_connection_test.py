import contextlib
import json
import socket
import threading

import pytest
import serving_answers
from serving_answers import Reply, ask, error, expected, photo, predicted, raw_server

from keras_alexnet.serving import client
from keras_alexnet.serving.client import connection
from keras_alexnet.serving.client.connection import (
    UNREADABLE,
    Answer,
    CallFailed,
    ModelSpec,
    Retries,
)


@pytest.fixture
def connected(server):
    """Ask again and again by one connection; return (answers, how often it was sent again)."""
    spec = ModelSpec("birds", None, "serving_default")
    with contextlib.closing(client.connect(server.address, spec, None)) as connection:
        yield lambda rule: connection.ask([photo("a")], rule)


ONCE = Retries(limit=0)


def test_predict(server):
    photos = [photo("a"), b"\xff\x00", photo("bcd")]
    assert ask(server.address, photos) == [*expected("a"), UNREADABLE, *expected("bcd")]
    (asked,) = server.asked
    assert asked.path == "/v1/models/birds:predict"
    assert asked.photos == photos  # decoded as strictly as base64 can be
    assert asked.document["signature_name"] == "serving_default"
    assert asked.document.keys() == {"signature_name", "inputs"}
    assert asked.document["inputs"].keys() == {"image_bytes"}


@pytest.mark.parametrize(
    ("model", "version", "signature", "path"),
    [
        ("a b/c:d", None, "ten_crop", "/v1/models/a%20b%2Fc%3Ad:predict"),
        ("birds", 12, "ten_crop", "/v1/models/birds/versions/12:predict"),
        ("birds", 0, "classify", "/v1/models/birds/versions/0:classify"),
    ],
)
def test_paths(server, model, version, signature, path):
    server.answer = lambda asked: error(404, "x")
    with pytest.raises(CallFailed):
        ask(server.address, model=model, model_version=version, signature=signature)
    assert server.asked[0].path == path
    assert server.asked[0].document["signature_name"] == signature


# As TF Serving prints it: numbers in exponents, names that are no UTF-8 as they are.
PREDICTED = b"""{
    "outputs": {
        "scores": [[0.999990344, 9.65e-06], [0.0, 0.0]],
        "classes": [["na\xc3\xafve", "bad \xff"], ["", ""]],
        "class_ids": [[1, 0], [0, 0]],
        "valid": [
            true,
            false
        ]
    }
}"""
CLASSIFIED = b'{ "results": [[["robin", 0.75], ["wren", 1e-05]\n], [["", 0.0], ["", 0.0]]]}'


def test_recorded_answers(server):
    two = [photo("a"), b"x"]
    server.answer = lambda asked: Reply(body=PREDICTED)
    best = Answer(True, ("naïve", "bad \ufffd"), (1, 0), (0.999990344, 9.65e-06))
    assert ask(server.address, two) == [best, UNREADABLE]
    server.answer = lambda asked: Reply(body=CLASSIFIED)
    best = Answer(True, ("robin", "wren"), (), (0.75, 1e-05))
    assert ask(server.address, two, signature="classify") == [best, UNREADABLE]
    assert server.asked[1].photos == two
    assert [list(row) for row in server.asked[1].document["examples"]] == [["image/encoded"]] * 2


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_an_answer_in_chunks(server, size):
    def answer(asked):
        body = predicted(asked).body
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""]]
        return Reply(body=b"".join(framed), headers={"Transfer_Encoding": "chunked"})

    server.answer = answer
    assert ask(server.address) == expected("a")


def test_a_large_answer(server):
    outputs = {**serving_answers.outputs([photo("a")]), "more": ["x" * (20 << 20)]}
    server.answer = lambda asked: Reply(body=json.dumps({"outputs": outputs}).encode())
    assert ask(server.address) == expected("a")


@pytest.mark.parametrize("header", [b"Content-Length: 99999999999\r\n", b""])
def test_an_answer_that_is_too_large(server, header, monkeypatch):
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 1000)
    raw = b"HTTP/1.1 200 OK\r\n" + header + b"\r\n" + b" " * 2000
    server.answer = lambda asked: Reply(raw=raw)
    with pytest.raises(CallFailed, match="sends more than"):
        ask(server.address)


HTML = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n</BODY></HTML>\n"


@pytest.mark.parametrize(
    ("reply", "message", "kind"),
    [
        (error(404, "No: Latest(birds)"), r"answers 404: No: .*\(birds\); check model, mod", ""),
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
        (Reply(raw=b"\0\0\6\4\0\0\0\0\0\n"), r"\(BadStatusLine\); check.* is a REST port", ""),
    ],
)
def test_refusals(server, reply, message, kind):
    server.answer = lambda asked: reply
    with pytest.raises(CallFailed, match=message) as failure:
        ask(server.address)
    assert failure.value.is_transient == (kind == "transient")
    assert failure.value.is_too_large == (kind == "too_large")
    assert "\n" not in str(failure.value)


GOOD = serving_answers.outputs([photo("a")])


@pytest.mark.parametrize(
    ("signature", "outputs"),
    [
        *(
            ("serving_default", outputs)
            for outputs in (
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
                {**GOOD, "scores": [[10**400, 0.0]]},  # larger than any float
                {**GOOD, "scores": [["0.5", "0.5"]]},
                {**GOOD, "scores": []},
                {name: column * 2 for name, column in GOOD.items()},
            )
        ),
        *(
            ("classify", results)
            for results in ([], [[["a", 1], ["b"]]], [["ab"]], [[["a", "b"]]], {}, [3])
        ),
    ],
)
def test_another_kind_of_model(server, signature, outputs):
    field = "results" if signature == "classify" else "outputs"
    server.answer = lambda asked: Reply(body=json.dumps({field: outputs}).encode())
    message = r"serves 'birds', but does not answer as a model that keras_alexnet\.export wrote"
    with pytest.raises(CallFailed, match=message):
        ask(server.address, signature=signature)


def in_turn(*replies):
    """Give each answer once, then right answers."""
    remaining = list(replies)
    return lambda asked: remaining.pop(0) if remaining else predicted(asked)


HALF = Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + PREDICTED[:100])
HALF_A_CHUNK = Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{")
HANGS_UP = Reply(raw=b"")
HALF_A_HEADER = Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le")


@pytest.mark.parametrize(
    ("replies", "delays"),
    [
        ([error(503, "busy"), error(503, "busy")], [0.5, 1.0]),
        ([HANGS_UP, error(429, "full")], [0.5, 1.0]),
        ([HALF, HALF_A_CHUNK], [0.5, 1.0]),
        ([HALF_A_HEADER, HALF_A_HEADER], [0.5, 1.0]),
        ([error(503, "x", Retry_After="3"), error(503, "x", Retry_After="Wed, 21 Oct")], [3, 1]),
    ],
)
def test_what_is_sent_again(server, connected, replies, delays):
    server.answer, slept = in_turn(*replies), []
    rule = Retries(sleep=slept.append, random=lambda: 1.0)
    assert connected(rule) == (expected("a"), 2)
    assert slept == delays
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "message"), [(HALF, "IncompleteRead"), (HANGS_UP, "RemoteDisconnected")]
)
def test_what_is_not_answered_in_the_end(server, connected, reply, message):
    server.answer = lambda asked: reply
    with pytest.raises(CallFailed, match=rf"broke off .*\({message}\).*\(3 tries in"):
        connected(Retries(limit=2, sleep=lambda seconds: None))
    assert len(server.asked) == 3


@pytest.mark.parametrize("header", ["1.1 200 OK\r\nContent-Length: %d", "1.0 200 OK"])
def test_a_connection_that_the_server_closed_while_idle_costs_no_retry(server, connected, header):
    """The first header does not say that the server is about to hang up."""

    def answer(asked):
        body = predicted(asked).body
        head = header % len(body) if "%" in header else header
        return Reply(raw=b"HTTP/%s\r\n\r\n%s" % (head.encode(), body))

    server.answer = answer
    for _ in range(3):
        assert connected(ONCE) == (expected("a"), 0)
    assert len({asked.port for asked in server.asked}) == 3


def test_a_connection_that_breaks_as_it_is_used_again_costs_no_retry(server, connected):
    """The server has closed it, but that is not seen before the request is on its way."""
    assert connected(ONCE) == (expected("a"), 0)
    server.answer = in_turn(HANGS_UP)
    assert connected(ONCE) == (expected("a"), 0)
    assert len(server.asked) == 3


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

    with raw_server(talk) as server, contextlib.ExitStack() as stack:
        stack.callback(end.set)
        with pytest.raises(CallFailed, match=r"did not answer in 0\.5 s"):
            ask(server, [photo("a"), b"x"], deadline=0.5)
        assert not is_whole.is_set()


def test_a_server_that_does_not_read():
    end = threading.Event()
    with raw_server(lambda connection: end.wait(60)) as server, contextlib.ExitStack() as stack:
        stack.callback(end.set)
        with pytest.raises(CallFailed, match=r"did not answer in 0\.3 s"):
            ask(server, [photo("a", 20 << 20)], deadline=0.3)


def test_a_refusal_before_the_request_is_read():
    """Proxies answer so to what is too large."""

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


def test_no_such_host():
    with pytest.raises(CallFailed, match=r"cannot be found.*check server") as failure:
        ask("http://no.such.host.invalid:80")
    assert not failure.value.is_transient


def test_proxies_netrc_cookies_and_redirects_are_not_used(server, connected, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{serving_answers.free_port()}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    moved = Reply(307, b"", {"Location": f"{server.address}/x", "Set-Cookie": "a=b"})
    server.answer = in_turn(moved)
    with pytest.raises(CallFailed, match="answers 307"):
        connected(ONCE)
    assert connected(ONCE) == (expected("a"), 0)
    assert len(server.asked) == 2
    for asked in server.asked:
        assert asked.path == "/v1/models/birds:predict"
        assert not {"Authorization", "Cookie"} & asked.headers.keys()
    assert len({asked.port for asked in server.asked}) == 1  # the connection is kept
