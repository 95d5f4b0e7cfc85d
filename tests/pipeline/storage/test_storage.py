import errno
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.storage import patterns
from pipeline.storage.parallel import in_threads
from pipeline.storage.patterns import PathError, expand_braces, natural_key, split_range


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("a.tar", ["a.tar"]),
        ("{000..003}.tar", ["000.tar", "001.tar", "002.tar", "003.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{1..010}", [f"{n:03d}" for n in range(1, 11)]),
        ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{a,{b,c}}{,x}", ["a", "ax", "b", "bx", "c", "cx"]),
        ("{a}{..}", ["{a}{..}"]),
    ],
)
def test_braces(pattern, want):
    assert sorted(expand_braces(pattern), key=natural_key) == want


@pytest.mark.parametrize("pattern", ["{5..3}", "{0..9999999}", "{0..8}{0..8}{0..8}"])
def test_unreasonable_braces(monkeypatch, pattern):
    monkeypatch.setattr(patterns, "_MAX_ALTERNATIVES", 500)
    with pytest.raises(PathError) as caught:
        expand_braces(pattern)
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "parts", "want"),
    [
        ("{000..019}.tar", 2, ["{000..009}.tar", "{010..019}.tar"]),
        ("{8..12}.tar", 3, ["8.tar", "{9..10}.tar", "{11..12}.tar"]),
        ("{0..1}/{a,b}/{0..7}", 2, ["{0..1}/{a,b}/{0..3}", "{0..1}/{a,b}/{4..7}"]),
    ],
)
def test_split_range(pattern, parts, want):
    assert split_range(pattern, parts) == want


@given(st.integers(0, 120), st.integers(0, 60), st.integers(1, 4), st.data())
def test_pieces_of_a_range_are_the_range(first, more, width, data):
    pattern = f"s-{{{first:0{width}d}..{first + more:0{width}d}}}.tar"
    pieces = split_range(pattern, data.draw(st.integers(1, more + 1)))
    names = [expand_braces(piece) for piece in pieces]
    assert {*expand_braces(pattern)} == {name for piece in names for name in piece}
    assert sum(map(len, names)) == more + 1
    assert max(map(len, names)) - min(map(len, names)) <= 1


def test_expand(tmp_path):
    for name in ("s-10", "s-2", "other", "[x]"):
        (tmp_path / name).touch()
    assert storage.expand(f"{tmp_path}/s-*") == [f"{tmp_path}/s-2", f"{tmp_path}/s-10"]
    assert storage.expand(f"{tmp_path}/{{s-*,other,s-2}}") == [
        f"{tmp_path}/other",
        f"{tmp_path}/s-2",
        f"{tmp_path}/s-10",
    ]
    assert storage.expand(f"{tmp_path}/[x]") == [f"{tmp_path}/[x]"]
    pattern = f"{tmp_path}/s-{{2,3}}"
    with pytest.raises(PathError) as caught:
        storage.expand(pattern)
    assert repr(pattern) in str(caught.value)
    assert "(1 of 2)" in str(caught.value)
    assert "s-3;" in str(caught.value)


@pytest.fixture
def shards(tmp_path):
    """A folder d with shards in p1, in p2, which is a link, and what macOS leaves beside them."""
    for name in ("d/p1/a.tar", "d/p1/._a.tar", "elsewhere/b.tar", "elsewhere/deep/c.tar", "d/.h/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d/p2").symlink_to(tmp_path / "elsewhere")
    return str(tmp_path / "d")


def test_a_glob_follows_links_and_passes_over_hidden_files(shards):
    both = [f"{shards}/p1/a.tar", f"{shards}/p2/b.tar"]
    assert storage.expand(f"{shards}/*/*.tar") == both
    assert storage.expand(f"{shards}/p{{1..2}}/?.tar") == both
    assert storage.expand(f"{shards}/**/*.tar") == [*both, f"{shards}/p2/deep/c.tar"]
    assert storage.expand(f"{shards}/*/._*") == [f"{shards}/p1/._a.tar"]
    assert storage.expand(f"{shards}/.h/*") == [f"{shards}/.h/x"]


@pytest.mark.parametrize("pattern", ["*/*.tar", "*/deep/*.tar", "**/*.tar"])
def test_a_folder_that_cannot_be_looked_into_is_no_empty_one(shards, monkeypatch, pattern):
    real = os.scandir

    def scandir(path="."):
        if str(path).rstrip("/").endswith("p2"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="p2"):
        storage.expand(f"{shards}/{pattern}")


def test_linked_files_and_folders_are_listed(shards, tmp_path):
    (tmp_path / "d/unit.parquet").symlink_to(tmp_path / "elsewhere/b.tar")
    (tmp_path / "d/broken").symlink_to(tmp_path / "nowhere")
    assert storage.list_folders(shards) == [".h", "p1", "p2"]
    assert storage.list_files(shards) == [f"{shards}/unit.parquet"]
    assert storage.list_files(f"{shards}/p2") == [f"{shards}/p2/b.tar"]
    assert storage.list_files(f"{shards}/unit.parquet") == []
    assert storage.list_folders(f"{shards}/absent") == []


def test_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.full_path("a/../b") == f"{tmp_path}/b"
    assert storage.full_path("~/x") == "/home/me/x"
    assert storage.join("s3://b/k/", "c", "d") == "s3://b/k/c/d"
    assert storage.join("/", "c") == "/c"


def test_s3_needs_no_connection_to_name_things(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fs, inner = storage.filesystem("s3://bucket/key/")
    assert inner == "bucket/key"
    assert "s3" in fs.protocol
    assert storage.full_path("s3://bucket/key/") == "s3://bucket/key"
    assert storage.full_path("s3://bucket/cat@2x/10:30@b") == "s3://bucket/cat@2x/10:30@b"
    with pytest.raises(PathError, match="s3://"):
        storage.filesystem("http://x/y")


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA1:pa55@bucket/x.tar",
        "s3://AKIA1:abc/defpa55@bucket/x.tar",
        "s3://AKIA1:abc@d/pa55/f@bucket/{0..3}.tar",
        "s3://pa55@bucket/x.tar",
        "S3://AKIA1:pa55@bucket/x.tar",
        "https://k:pa55@h/x",
        "https://h/x?X-Amz-Signature=pa55",
        "{s3://AKIA1:a/pa55@bucket/x,absent}",
    ],
)
def test_no_part_of_a_secret_in_an_address_is_repeated(address):
    with pytest.raises(PathError) as caught:
        storage.expand(address)
    assert "pa55" not in str(caught.value)
    assert "s3://" in str(caught.value).lower()


def test_of_a_pattern_the_wildcards_are_repeated(tmp_path):
    with pytest.raises(PathError, match=r"s-\?\?\.tar"):
        storage.expand(f"{tmp_path}/s-??.tar")


def test_a_file_is_created_once(tmp_path):
    path = str(tmp_path / "deep" / "file")
    assert storage.create(path, b"first")
    assert not storage.create(path, b"second")
    assert storage.read_bytes(path) == b"first"
    assert os.listdir(tmp_path / "deep") == ["file"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch, number):
    def link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match=r"no hard links \(.*give --out on another") as caught:
        storage.create(str(tmp_path / "file"), b"data")
    assert str(tmp_path) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_write_read_list_remove(tmp_path):
    path = str(tmp_path / "deep" / "er" / "file")
    assert storage.list_files(os.path.dirname(path)) == []
    for data in (b"first", b"second"):
        storage.write_atomically(path, data)
        assert storage.read_bytes(path) == data
    assert storage.read_bytes(path, 1, 3) == b"ec"
    assert storage.read_bytes(path, 4, 99) == b"nd"
    assert storage.exists(path)
    assert storage.is_directory(os.path.dirname(path))
    assert storage.list_files(os.path.dirname(path)) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~mask
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = str(tmp_path / "file")
    storage.write_atomically(path, b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        storage.write_atomically(path, b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]
    assert storage.read_bytes(path) == b"old"


def test_threads_begin_no_more_once_it_is_enough():
    gate = threading.Event()

    def wait(item):
        assert item == 0 or gate.wait(60)
        return -item

    found = in_threads(wait, range(10_000), lambda begun: gate.set() or begun > 0)
    assert 1 <= len(found) < 10_000
    assert found == [-item for item in range(len(found))]
    assert in_threads(wait, range(40), lambda begun: begun > 40) == [-item for item in range(40)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // (item - 3), range(10), lambda begun: False)
