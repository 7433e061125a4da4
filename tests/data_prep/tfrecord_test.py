import io

import pytest
import tensorflow as tf

from data_prep import tfrecord

PAYLOADS = [b"", b"a", b"photo" * 5000]


def test_the_bytes_are_tensorflows(tmp_path):
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert path.read_bytes() == b"".join(map(tfrecord.frame, PAYLOADS))
    with open(path, "rb") as file:
        assert list(tfrecord.read_records(file)) == PAYLOADS


def test_after_a_broken_payload_the_next_records_are_read():
    frames = [tfrecord.frame(payload) for payload in (b"first", b"second", b"third")]
    start = len(frames[0])
    for place in range(start + 12, start + len(frames[1])):
        broken = bytearray(b"".join(frames))
        broken[place] ^= 1
        with pytest.raises(tfrecord.CorruptRecordError, match=r"^record 1: "):
            list(tfrecord.read_records(io.BytesIO(broken)))
        read = list(tfrecord.read_frames(io.BytesIO(broken)))
        assert [frame.fault for frame in read] == ["", "the checksum of its payload is wrong", ""]
        assert [frame.offset for frame in read] == [0, start, start + len(frames[1])]
        assert [frame.length for frame in read] == [len(frame) for frame in frames]
        assert (read[0].payload, read[2].payload) == (b"first", b"third")


def test_a_broken_length_is_the_end():
    frames = [tfrecord.frame(payload) for payload in (b"first", b"second", b"third")]
    for place in range(12):
        broken = bytearray(b"".join(frames))
        broken[len(frames[0]) + place] ^= 1
        first, second = tfrecord.read_frames(io.BytesIO(broken))
        assert first.payload == b"first"
        fault = "the checksum of its length is wrong"
        assert second == tfrecord.Frame(len(frames[0]), 0, b"", fault)


def test_any_cut_is_found():
    whole = tfrecord.frame(b"payload")
    for length in range(1, len(whole)):
        with pytest.raises(tfrecord.CorruptRecordError, match="cut short"):
            list(tfrecord.read_records(io.BytesIO(whole[:length])))


def test_a_huge_length_with_a_right_checksum_allocates_nothing():
    length = (1 << 40).to_bytes(8, "little")
    header = tfrecord.frame(length)[12:20] + tfrecord.frame(length)[20:24]
    with pytest.raises(tfrecord.CorruptRecordError, match="a length of 1099511627776 bytes"):
        list(tfrecord.read_records(io.BytesIO(header)))


def test_an_example_is_tensorflows_example():
    values = {"b": b"\x00\xff", "a": "text", "n": -5, "zero": 0}
    values |= {f"key{n:02}": n for n in range(30)}
    serialized = tfrecord.encode_example(values)
    places = [serialized.index(f"key{n:02}".encode()) for n in range(30)]
    assert places == sorted(places)  # and so the same bytes in each process
    example = tf.train.Example.FromString(serialized)
    assert example.features.feature["b"].bytes_list.value == [b"\x00\xff"]
    assert example.features.feature["a"].bytes_list.value == [b"text"]
    assert example.features.feature["n"].int64_list.value == [-5]
    assert example.features.feature["zero"].int64_list.value == [0]


def test_decodes_tensorflows_example_and_leaves_out_what_is_not_one_value():
    feature = {
        "one": tf.train.Feature(int64_list=tf.train.Int64List(value=[7])),
        "two": tf.train.Feature(int64_list=tf.train.Int64List(value=[7, 8])),
        "none": tf.train.Feature(),
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    assert tfrecord.decode_example(example.SerializeToString()) == {"one": 7, "text": b"x"}


def test_what_is_no_example_is_refused():
    with pytest.raises(tfrecord.CorruptRecordError, match=r"not a tf.train.Example"):
        tfrecord.decode_example(b"\xff\xff\xff")
