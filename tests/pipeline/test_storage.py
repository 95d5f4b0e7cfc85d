import os

import pytest

from pipeline import patterns, storage
from pipeline.patterns import PathError, expand_braces, natural_key


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
    with pytest.raises(PathError, match="s3://"):
        storage.filesystem("http://x/y")


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
