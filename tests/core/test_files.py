"""core.files: whole files or none, and strangers' files within bounds."""

import errno
import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchard.core import files
from torchard.core.errors import FileRefusedError


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(files.TEMPORARY))


def test_write_atomic_replaces_text_and_bytes(tmp_path):
    path = tmp_path / "a.txt"
    files.write_atomic(path, "grün")
    assert path.read_bytes() == "grün".encode()
    files.write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_write_atomic_follows_the_umask(tmp_path):
    files.write_atomic(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1


def test_a_reader_with_the_old_file_open_keeps_the_old_content(tmp_path):
    path = tmp_path / "a"
    files.write_atomic(path, "old")
    with path.open() as reader:
        files.write_atomic(path, "new")
        assert reader.read() == "old"


def test_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    files.write_atomic(path, "x")
    assert path.read_text() == "x"


def test_an_error_inside_replacing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a"
    files.write_atomic(path, "old")

    def fail() -> None:
        with files.replacing(path, needed=3) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.fixture
def small_disk():
    """No file may grow past 64 KiB: what a full disk looks like to a writer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    yield 64 << 10
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_full_disk_is_one_line_with_the_bytes_needed(tmp_path, small_disk):
    path = tmp_path / "a"
    files.write_atomic(path, "old")
    with pytest.raises(OSError, match="100,000 bytes needed") as caught:
        files.write_atomic(path, b"x" * 100_000)
    assert "\n" not in str(caught.value)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_missing_folder_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Cannot write .*no/a.*No such file"):
        files.write_atomic(tmp_path / "no" / "a", "x")


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=json_values)
def test_json_comes_back_as_written(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round.json"
    files.write_json(path, value)
    back = files.read_json(path)
    assert back == value
    assert repr(back) == repr(value)  # -0.0 and 1 against 1.0 as well


def test_names_in_invalid_utf8_survive_json(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    files.write_json(tmp_path / "a.json", {name: "<script>"})
    assert files.read_json(tmp_path / "a.json") == {name: "<script>"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        "[Infinity]",
        "[-Infinity]",
        "1e999",
        '{"a": 1, "a": 2}',
        "[" * 65 + "]" * 65,
        "[" * 100_000,
        '{"a":' * 100_000,
        "{",
        "",
        "[1,]",
        "'a'",
        "9" * 10_000,
        b"\xff\xfe",
        b'"\xc3("',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_read_json_refuses(tmp_path, text):
    path = tmp_path / "bad\nname.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileRefusedError) as caught:
        files.read_json(path)
    assert "\n" not in str(caught.value)
    assert "name.json" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_read_json_accepts_exactly_the_depth_allowed(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 64 + "]" * 64)
    assert files.read_json(path) is not None


def test_read_json_refuses_a_file_over_the_bound(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps("x" * 100))
    assert files.read_json(path, max_bytes=102) == "x" * 100
    with pytest.raises(FileRefusedError, match="larger than 101 bytes"):
        files.read_json(path, max_bytes=101)


def test_a_sparse_gigabyte_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(FileRefusedError, match="larger than"):
        files.read_json(path, max_bytes=1 << 20)


def test_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "no.json")


def test_pipes_folders_and_nul_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("a\0b")):
        with pytest.raises(FileRefusedError):
            files.read_json(path)
    with pytest.raises(FileRefusedError):
        files.magic(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["a.txt", "sub/a.txt", "new/file", "sub/../a.txt", "..a", "a..b"])
def test_confine_lets_through_what_stays_inside(tmp_path, name):
    (tmp_path / "sub").mkdir()
    assert files.confine(tmp_path, name) == (tmp_path / name).resolve()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "C:\\x",
        "c:x",
        "\\\\host\\x",
        "a\\..\\..\\x",
        "a\0b",
    ],
)
def test_confine_refuses_what_leads_out(tmp_path, name):
    with pytest.raises(FileRefusedError) as caught:
        files.confine(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_confine_follows_links_before_it_judges(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "real")
    (root / "loop").symlink_to(root / "loop")
    assert files.confine(root, "inside") == root / "real"
    for name in ("out", "out/x", "loop/x"):
        with pytest.raises(FileRefusedError):
            files.confine(root, name)


@given(name=st.text(st.sampled_from("./\\a:"), max_size=12))
def test_confine_never_answers_a_path_outside(name, tmp_path_factory):
    root = tmp_path_factory.getbasetemp().resolve()
    try:
        path = files.confine(root, name)
    except FileRefusedError:
        return
    assert path.is_relative_to(root)
    assert path != root


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF89a", "gif"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "webp"),
        (b"BM123456", "bmp"),
        (b"II*\x00", "tiff"),
        (b"PK\x03\x04", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "safetensors"),
        (b"  <!DOCTYPE html>", "html"),
        (b"hello", None),
        (b"", None),
    ],
    ids=str,
)
def test_magic(tmp_path, head, kind):
    path = tmp_path / "picture.jpg"
    path.write_bytes(head)
    assert files.magic(path) == kind


def test_magic_knows_what_pillow_writes(tmp_path):
    from PIL import Image

    for suffix in ("jpeg", "png", "gif", "webp", "bmp", "tiff"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"a.{suffix}")
        assert files.magic(tmp_path / f"a.{suffix}") == suffix


def test_quote_is_one_short_line():
    assert "\n" not in files.quote("a\nb")
    assert len(files.quote("x" * 10_000)) < 200
