"""Troubles that clients make for a server, on purpose or not. One server bears all of it.

Every answer is right or a proper error, the process is the same at the end, and needs no more
memory than before.
"""

import collections
import concurrent.futures
import http.client
import io
import json
import socket
import struct
import time

import grpc
import numpy as np
import psutil
import pytest
import served
import stand_in
from PIL import Image

pytestmark = pytest.mark.slow

CLIENTS = 64
SECONDS = 60  # of them all at once
GOOD = [stand_in.photo(120 + seed, 160, seed=seed) for seed in range(8)]
PREDICT = "/v1/models/birds:predict"
# Statuses of HTTP that the API has; 500 is a fault of the server's.
PROPER = {200, 400, 404, 413, 414, 429, 431, 501, 503, 504, 505}


@pytest.fixture(scope="module")
def alive(server, assert_right):
    """Return a function that asserts that the server answers as ever."""

    def check():
        assert_right(Client(server).classify(GOOD), GOOD)

    check()
    return check


def assert_blank_or_sound(answer):
    """Return the answer to bytes that may be a photo or not."""
    if answer["valid"]:
        scores = np.array(answer["scores"])
        assert np.isfinite(scores).all()
        assert (np.diff(scores) <= 0).all()
        assert 0 < scores.sum() <= 1.0001
        assert all(answer["classes"])
    else:
        assert answer["classes"] == [""] * 5
        assert answer["class_ids"] == [-1] * 5
        assert answer["scores"] == [0.0] * 5


class Client:
    """A connection to the REST API."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection(*server.address, timeout=60)

    def post(self, body, path=PREDICT):
        self.connection.request("POST", path, body)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def classify(self, photos):
        body = json.dumps({"instances": [served.b64(photo) for photo in photos]})
        status, answer = self.post(body)
        assert status == 200, answer
        return answer["predictions"]


def mutated(photo, random):
    """Return a JPEG with some bytes changed, taken out, put in or cut off."""
    data = bytearray(photo)
    for _ in range(random.integers(1, 12)):
        # Half of them in the header, where a byte means most.
        place = int(random.integers(2, 700 if random.random() < 0.5 else len(data)))
        kind = random.integers(20)
        if kind < 14:
            data[place : place + 1] = random.bytes(1)
        elif kind < 16:
            del data[place : place + int(random.integers(1, 40))]
        elif kind < 18:
            data[place:place] = random.bytes(int(random.integers(1, 40)))
        elif kind < 19:
            data[place : place + 2] = b"\xff" + random.bytes(1)  # a marker
        else:
            del data[place:]
            break
        if len(data) < 800:
            break
    return bytes(data)


@pytest.fixture(scope="module")
def load(server, alive, assert_right):
    """Return a function: many clients ask for some seconds; the number of their photos."""

    def ask(seconds, seed):
        random = np.random.default_rng(seed)
        client, count = Client(server), 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            photos = [GOOD[i] for i in random.integers(len(GOOD), size=random.integers(1, 5))]
            bad = mutated(GOOD[0], random)[: int(random.integers(600))]
            *answers, blank = client.classify([*photos, bad])
            assert_right(answers, photos)
            assert blank["valid"] is False
            count += len(photos) + 1
        client.connection.close()
        return count

    def of_all(seconds):
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            return sum(pool.map(ask, [seconds] * CLIENTS, range(CLIENTS)))

    return of_all


@pytest.fixture(scope="module")
def send_mutated(server, assert_right):
    """Return a function that sends mutated photos and returns how many of them were valid.

    In requests of 49, each with a good photo that must not notice.
    """
    sizes = ((64, 90), (90, 64), (260, 300))
    originals = [stand_in.photo(*size, seed=place) for place, size in enumerate(sizes)]
    originals.append(stand_in.encoded(stand_in.pixels(80, 80), progressive=True))

    def send(count, seed):
        random = np.random.default_rng(seed)
        valid, sent = 0, 0
        client = Client(server)
        while sent < count:
            good = GOOD[sent % len(GOOD)]
            batch = [
                mutated(originals[i % len(originals)], random) for i in range(min(49, count - sent))
            ]
            *answers, last = client.classify([*batch, good])
            assert_right([last], [good])
            for answer in answers:
                assert_blank_or_sound(answer)
                valid += answer["valid"]
            sent += len(batch)
        return valid

    return send


@pytest.fixture(scope="module")
def memory_before(server, load, send_mutated):
    """Once it has met every kind of load: what a program has touched, it keeps for the next."""
    load(10)
    send_mutated(2000, seed=0)
    for _ in range(2):
        assert len(Client(server).classify([GOOD[0]] * 256)) == 256
    return psutil.Process(server.pid).memory_info().rss


@pytest.mark.parametrize("count", [pytest.param(10_000, marks=pytest.mark.soak), 500])
def test_mutated_photos(request, send_mutated, count):
    if count == 10_000:
        request.getfixturevalue("memory_before")  # it is taken before this load
    valid = send_mutated(count, seed=2012)
    print(f"of {count} mutated photos, {valid} were still photos")
    assert count / 20 < valid < count * 19 / 20


def test_mutated_photos_that_are_valid_are_what_pillow_sees(server, run):
    """Pillow is stricter; where it decodes too, the same scores for nearly all."""
    random = np.random.default_rng(1)
    photos = [mutated(stand_in.photo(256, 256, seed=5), random) for _ in range(300)]
    seen, stored = [], []
    for photo in photos:
        try:
            image = Image.open(io.BytesIO(photo))
            if image.format == "JPEG" and image.size == (256, 256) and not image.getexif():
                stored.append(np.asarray(image.convert("RGB")))
                seen.append(photo)
        except (OSError, ValueError, SyntaxError):
            continue
    client = Client(server)
    answers = [row for i in range(0, len(seen), 50) for row in client.classify(seen[i : i + 50])]
    wanted = -np.sort(-stand_in.scores(run, np.stack(stored)))[:, :5]
    same = [
        answer["valid"] and np.allclose(answer["scores"], scores, atol=0.01)
        for answer, scores in zip(answers, wanted, strict=True)
    ]
    print(f"{len(seen)} of 300 are photos for Pillow too; {sum(same)} have the same scores")
    assert len(seen) > 50
    assert np.mean(same) > 0.9


def random_json(random, depth=0):
    kinds = 8 if depth < 4 else 6
    kind = random.integers(kinds)
    if kind == 6:
        return [random_json(random, depth + 1) for _ in range(random.integers(4))]
    if kind == 7:
        keys = ["b64", "instances", "inputs", "image_bytes", "signature_name", "x", "examples"]
        return {
            keys[random.integers(len(keys))]: random_json(random, depth + 1)
            for _ in range(random.integers(4))
        }
    scalars = [None, True, int(random.integers(-5, 300)), 1e300, "AAAA", "\ud800 ../../etc/passwd"]
    return scalars[kind]


def test_random_bodies(server, alive):
    random = np.random.default_rng(3)
    valid = json.dumps({"instances": [served.b64(GOOD[0])]}).encode()
    signatures = ["pixels", "classify", "features", "explain", "ten_crop", "no such", 7, None]
    client = Client(server)
    statuses = collections.Counter()
    for number in range(3000):
        kind = number % 4
        if kind == 0:
            body = random.bytes(int(random.integers(1, 2000)))
        elif kind == 1:
            body = bytearray(valid)
            for _ in range(3):
                body[random.integers(len(body))] = random.integers(256)
        elif kind == 2:
            body = json.dumps(random_json(random))
        else:
            signature = signatures[random.integers(len(signatures))]
            key = ["instances", "inputs", "examples"][random.integers(3)]
            body = json.dumps({"signature_name": signature, key: random_json(random)})
        verb = ("predict", "classify")[number % 12 == 0]
        status, answer = client.post(body, f"/v1/models/birds:{verb}")
        assert status in PROPER, (body[:200], answer)
        assert (status == 200) != ("error" in answer)
        statuses[status] += 1
    print(f"3,000 random bodies: {statuses}")
    alive()


def test_random_protocol_buffers(server, alive):
    random = np.random.default_rng(4)
    valid = served.predict_request({"image_bytes": [GOOD[0]]}).SerializeToString()
    codes = collections.Counter()
    with grpc.insecure_channel(server.grpc) as channel:
        for number in range(2000):
            # Every fourth is noise; of the others, a byte of the structure in front is changed.
            data = bytearray(valid if number % 4 else random.bytes(int(random.integers(300))))
            if number % 4:
                data[random.integers(100)] = random.integers(256)
            method = ("Predict", "Classify", "GetModelMetadata", "Regress", "Nothing")[number % 5]
            call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
            try:
                call(bytes(data), timeout=60)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
            codes[code] += 1
    print(f"2,000 random protocol buffers: {codes}")
    # INTERNAL is gRPC's own for what is no protocol buffer: "Exception deserializing request".
    proper = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
    assert set(codes) <= proper | {"INTERNAL"}
    assert len(codes) > 2
    alive()


def test_the_largest_batch(server, assert_right):
    photos = [GOOD[number % len(GOOD)] for number in range(256)]
    assert_right(Client(server).classify(photos), photos)


def connect(server):
    return socket.create_connection(server.address, timeout=60)


def request_bytes(photo):
    body = json.dumps({"instances": [served.b64(photo)]}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_connections_cut_half_way(server, alive):
    """At any byte of the request, or before the answer is read; some with a reset."""
    random = np.random.default_rng(5)
    data = request_bytes(GOOD[0])
    for number in range(300):
        connection = connect(server)
        end = int(random.integers(len(data) + 1)) if number % 3 else len(data)
        connection.sendall(data[:end])
        if number % 2:
            # Closing sends a reset, which the server meets wherever it is.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    alive()


def test_slow_clients(server, alive):
    """Fifty send a byte now and then; others are served meanwhile, and the slow ones ended."""
    data = request_bytes(GOOD[0])
    connections = [connect(server) for _ in range(50)]
    started = time.monotonic()
    for connection in connections:
        connection.sendall(data[:200])  # the header, and some of the body
    for place in range(200, 208):
        for connection in connections:
            connection.sendall(data[place : place + 1])
        alive()
        time.sleep(0.3)
    for connection in connections:
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 504 ")
        while connection.recv(4096):  # until the server closes it
            pass
    assert time.monotonic() - started < 60  # --timeout=5 is of the whole body, not of a byte


def test_more_connections_than_there_may_be(server, alive):
    connections = [connect(server) for _ in range(300)]
    try:
        for connection in connections:
            connection.sendall(b"GET /v1/models/birds HTTP/1.1\r\nHost: x\r\n\r\n")
        statuses = [connection.recv(4096)[:12] for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    assert set(statuses) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}
    assert 200 < statuses.count(b"HTTP/1.1 200") <= 256
    deadline = time.monotonic() + 30
    while True:  # until the server has seen that they are gone
        try:
            alive()
            return
        except (OSError, http.client.HTTPException, AssertionError):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_many_clients(server, load):
    assert load(3) > CLIENTS
    # The server closes its side of connections that are closed.
    process = psutil.Process(server.pid)
    deadline = time.monotonic() + 30
    while any(each.status != "LISTEN" for each in process.net_connections("tcp")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.soak
def test_many_clients_for_a_minute_and_no_leak(server, load, memory_before):
    """After all the above, which must not have left anything behind either."""
    count = load(SECONDS)
    after = psutil.Process(server.pid).memory_info().rss
    print(f"{count} photos in {SECONDS} s; {memory_before >> 20} MiB before, {after >> 20} after")
    assert count > CLIENTS
    assert after < 1.05 * memory_before
