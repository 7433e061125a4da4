import gzip
import io
import tarfile

import pytest
import small_release
from small_release import tar_bytes

from data_prep import storage
from data_prep.sources import tars


def large_photos_tar():
    return tar_bytes((f"{n}.JPEG", bytes([n]) * 5000) for n in (1, 2, 3))


def damaged(content, place):
    broken = bytearray(content)
    broken[place] ^= 0xFF
    return bytes(broken)


def extension_headers(count):
    """Return a tar with many long-name headers in a row, which tarfile reads recursively."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    return (header.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * count


def of_size(size):
    """Return the header of a file of any size, written as GNU tar writes those over 8 GB."""
    header = bytearray(tarfile.TarInfo("1.JPEG").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def test_files_in_a_tar_are_ranges_of_its_bytes(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(large_photos_tar())
    for number, member in enumerate(tars.members(str(path)), start=1):
        content = path.read_bytes()[member.offset : member.offset + member.length]
        assert (member.name, content) == (f"{number}.JPEG", bytes([number]) * 5000)
    assert number == 3


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_form_of_tar_in_a_tar_is_read(tmp_path, form):
    name = "a/" + "long" * 20 + "/1.JPEG"  # more than 64 bytes, and with PAX a header of its own
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w", format=form) as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = 5, 0.5
        tar.addfile(member, io.BytesIO(b"photo"))
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("0", b"first" * 300), ("n01.tar", inner.getvalue())][1:]))
    [(outer_name, member)] = tars.nested_members(str(path))
    assert (outer_name, member.name) == ("n01.tar", name)
    assert path.read_bytes()[member.offset : member.offset + member.length] == b"photo"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no tar at all" * 99, r"a.tar must be a whole tar file, but is not one \("),
        (b"", r"a.tar must be a whole tar file"),
        (gzip.compress(large_photos_tar()), r"a.tar must be a whole tar file"),
        (large_photos_tar()[:9000], r"a.tar must be a whole tar file"),
        (damaged(large_photos_tar(), 5700), r"a.tar is damaged at byte 5632; fetch it again"),
        (extension_headers(2000), r"a.tar must be a whole tar file.*recursion"),
        (of_size(2**80), r"a.tar must be a whole tar file"),
    ],
)
def test_a_faulty_tar_is_refused(tmp_path, content, text):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=text):
        list(tars.members(str(tmp_path / "a.tar")))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([("n01.tar", b"x" * 600)], r"'n01.tar' in .*/a.tar must be a whole tar file"),
        ([("n01/n01_0.JPEG", b"x")], r"'n01/n01_0.JPEG' in .*/a.tar must be a whole tar file"),
        ([("n01.tar", damaged(large_photos_tar(), 5700))], r"'n01.tar' in .* damaged at byte 5632"),
    ],
)
def test_a_faulty_tar_in_a_tar_is_refused(tmp_path, entries, text):
    (tmp_path / "a.tar").write_bytes(tar_bytes(entries))
    with pytest.raises(ValueError, match=text):
        list(tars.nested_members(str(tmp_path / "a.tar")))


def test_a_disk_that_fails_is_no_damaged_tar(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 5000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(storage, "open_file", lambda _: Failing(large_photos_tar()))
    with pytest.raises(ValueError, match=r"a.tar cannot be read \(.*Input/output error\)"):
        list(tars.members(str(tmp_path / "a.tar")))


def test_a_list_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_LIST", 1 << 20)
    assert tars.read_list(io.BytesIO(bytes(1 << 20)), "x") == bytes(1 << 20)
    with pytest.raises(ValueError, match=r"x must be a list of at most 1 MB, but is larger"):
        tars.read_list(io.BytesIO(bytes((1 << 20) + 1)), "x")


def test_members_are_not_kept(tmp_path):
    # 50,000 of them, a kB each, would be most of what a listing takes.
    (tmp_path / "a.tar").write_bytes(small_release.validation_tar(range(1, 50)))
    with tars.open_tar(str(tmp_path / "a.tar")) as archive:
        assert len(list(tars._files(archive, ""))) == 49
        assert len(archive.members) <= 1
