import contextlib
import gzip
import http.client
import json
import socket
import time

import grpc
import psutil
import pytest
import served
import stand_in
from served import b64, predict_request
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_alexnet.serving.local_server import bodies, http_server
from keras_alexnet.serving.local_server.errors import RequestError

pytestmark = pytest.mark.slow

PHOTO = stand_in.photo(300, 400)
LIMIT = 4 << 20  # of `server`


def raw(server, request):
    """Send bytes as they are; return what comes back until the server closes the connection."""
    answer = b""
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):  # it has not read all of the request
            while data := connection.recv(65536):
                answer += data
    return answer


HEAD = b"POST /v1/models/birds:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/one\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000, 400),
        (HEAD + b"Transfer-Encoding: zip\r\n\r\n", 501),
        (HEAD + b"X: " + b"y" * 70000 + b"\r\n\r\n", 431),
        (HEAD + b"Content-Length: 99\r\n\r\n{", 504),  # the rest never comes
    ],
)
def test_broken_http(server, request_, status):
    head, _, content = raw(server, request_).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"Content-Type: application/json" in head
    assert list(json.loads(content)) == ["error"]
    assert served.ask(server, "/v1/models/birds")[0] == 200


def post(server, data, **headers):
    """(status, body) of a predict request, on a connection of its own."""
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    # An iterator is sent in chunks.
    connection.request("POST", "/v1/models/birds:predict", data, names)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_chunked_and_zipped_bodies(server, assert_right):
    body = json.dumps({"instances": [b64(PHOTO)]}).encode()
    zipped = gzip.compress(body)
    for data, headers in (
        (iter([body[:100], body[100:]]), {}),
        (zipped, {"Content_Encoding": "gzip"}),
        (iter([zipped[:10], zipped[10:]]), {"Content_Encoding": "identity, x-gzip"}),
    ):
        status, answer = post(server, data, **headers)
        assert status == 200, answer
        assert_right(answer["predictions"], [PHOTO])
    for data in (body, zipped[:-9], zipped + zipped, b""):
        assert post(server, data, Content_Encoding="gzip")[0] == 400


def test_gzip_bomb(server):
    """64 times the limit, in a body of some kilobytes."""
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    bomb = gzip.compress(bytes(64 * LIMIT))
    assert len(bomb) < LIMIT
    status, answer = post(server, bomb, Content_Encoding="gzip")
    assert (status, str(LIMIT) in answer["error"]) == (413, True)
    assert process.memory_info().rss - before < 32 * LIMIT


def test_methods_on_one_connection(server):
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    for method, path, status in (
        ("HEAD", "/", 200),
        ("HEAD", "/v1/models/birds", 200),
        ("HEAD", "/v1/models/cats", 404),
        ("OPTIONS", "/v1/models/birds:predict", 200),
    ):
        connection.request(method, path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
        assert connection.sock is not None  # it is kept for the next request
        assert (method == "OPTIONS") == ("POST" in response.headers.get("Allow", ""))
        assert (method == "HEAD") == (int(response.headers["Content-Length"]) > 0)
        policy = http_server.HEADERS["Content-Security-Policy"] if path == "/" else None
        assert response.headers["Content-Security-Policy"] == policy
    connection.close()


def test_ipv6_and_ipv4(other_server):
    for host in ("[::1]", "127.0.0.1"):
        there = served.Server(
            *(url.replace("127.0.0.1", host) for url in (other_server.rest, other_server.grpc))
        )
        assert served.ask(there, "/v1/models/birds")[0] == 200
        with grpc.insecure_channel(there.grpc) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(predict_request({"image_bytes": [PHOTO]}))


def test_large_bodies(server):
    large = 16 * LIMIT  # more than the sockets hold, so that the client is still writing
    for head, end in (
        (b"Content-Length: %d\r\n\r\n" % large, b""),
        (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % large, b"\r\n0\r\n\r\n"),
    ):
        answer = raw(server, HEAD + b"Connection: close\r\n" + head + bytes(large) + end)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert str(LIMIT).encode() in answer


def test_a_header_that_comes_too_slowly(other_server):
    with (
        socket.create_connection(other_server.address, timeout=30) as connection,
        contextlib.suppress(ConnectionError),
    ):
        with contextlib.suppress(ConnectionError):
            for _ in range(20):  # each byte comes in time, all of them do not
                connection.sendall(b"G")
                time.sleep(0.2)
        assert connection.recv(100) == b""


def test_bodies_of_all_requests_together():
    store = bodies.BodyStore(body_bytes=70, all_bodies_bytes=100)
    first, second = bodies.Body(store), bodies.Body(store)
    first.append(bytes(60))
    second.append(bytes(41))
    with pytest.raises(RequestError, match="60 bytes") as error:
        second.read()
    assert error.value.code == "RESOURCE_EXHAUSTED"
    first.close()
    third = bodies.Body(store)
    third.append(bytes(41))
    assert third.read() == bytes(41)
    third.append(bytes(41))
    with pytest.raises(RequestError, match="at most 70 bytes"):
        third.read()
    fourth = bodies.Body(store)
    fourth.append(gzip.compress(bytes(70)))
    assert fourth.unzipped() == bytes(70)


def test_page_and_icon(server):
    status, document, content_type = served.ask(server, "/")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert document == http_server.content("birds")
    assert served.ask(server, "/favicon.ico")[:2] == (204, b"")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("{{script}}", "{{script}}"),
        ("</title><script>", "&lt;/title&gt;&lt;script&gt;"),
        ('" onload="', "&quot; onload=&quot;"),
        ("birds\udcff", "birds?"),  # a folder's name may have bytes that are no text
    ],
)
def test_model_name_is_text(name, shown):
    document = http_server.content(name).decode()
    assert f'<html lang="en" data-model="{shown}">' in document
    assert f"<h1>{shown}</h1>" in document
    assert document.count("<script>") == 1
