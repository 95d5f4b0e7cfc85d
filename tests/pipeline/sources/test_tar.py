import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pipeline.sources import tar
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import decode
from pipeline.sources.listing import list_images
from pipeline.sources.reading import read_bytes_of

NO = SourceOptions()


def listed(path, num_classes=10):
    return list_images(str(path), NO, num_classes)


def test_ids_labels_and_pixels_of_a_shard(shard, encode):
    path = shard(
        [
            ("./a.cls", b"3\n"),
            ("./a.jpg", encode(10, "JPEG")),
            ("deep/b.PNG", encode(20)),
            ("deep/b.json", b"{}"),
            ("c.JPEG", encode(30, "JPEG")),
            ("c.cls", b"-1"),
            ("d.webp", encode(40, "WEBP")),
            ("d.seg.png", encode(1)),
            ("d.cls", b" 9 "),
            ("README", b"no key"),
            ("._d.jpg", b"what macOS adds"),
            ("note.txt", b"no image was meant"),
        ],
        "train-0.tar",
    )
    listing = listed(path)
    rows = listing.table.to_pylist()
    assert listing.kind == "webdataset"
    assert [row["image_id"] for row in rows] == [f"train-0/{k}" for k in ("a", "deep/b", "c", "d")]
    assert [row["label"] for row in rows] == [3, None, None, 9]
    assert {row["file"] for row in rows} == {path}
    raw = Path(path).read_bytes()
    data = read_bytes_of(listing.table, NO)
    assert data == [raw[row["offset"] :][: row["size"]] for row in rows]
    reds = [decode(one).getpixel((1, 1))[0] for one in data]
    assert all(abs(red - want) <= 3 for red, want in zip(reds, (10, 20, 30, 40), strict=True))


def test_every_truncation_is_detected(tmp_path, tar_bytes, encode, refusal):
    """At each block boundary and inside each block, up to the end-of-archive marker."""
    long_name = "folder/" + "x" * 120 + ".png"  # a GNU or pax header of its own
    members = [("a.png", encode(1)), ("a.cls", b"1"), (long_name, encode(2)), ("e.png", b"")]
    whole = tar_bytes([*members, ("b.png", bytes(700))])
    path = tmp_path / "cut.tar"
    path.write_bytes(whole)
    states = ["state", "digest"]
    expected = listed(path).table.drop_columns(states)
    with tarfile.open(path) as archive:
        archive.getmembers()
        end = archive.offset + 1024
    assert len(expected) == 4
    cuts = {block + inside for block in range(0, end, 512) for inside in (0, 1, 256, 511)}
    for cut in sorted(cut for cut in cuts if cut < end):
        path.write_bytes(whole[:cut])
        message = refusal(path)
        assert str(path) in message, cut
        assert f"of {cut:,}:" in message, cut
        assert "copy or build the shard again" in message, cut
    # The rest is padding that some writers leave out: nothing can be missing.
    for cut in range(end, len(whole) + 1, 512):
        path.write_bytes(whole[:cut])
        assert listed(path).table.drop_columns(states) == expected


def test_flipped_header_and_joined_archives(tmp_path, tar_bytes, encode, refusal):
    first = tar_bytes([("a.png", encode(1)), ("b.png", encode(2))])
    path = tmp_path / "a.tar"
    second_header = first.index(b"b.png")
    path.write_bytes(first[:second_header] + b"\xff" + first[second_header + 1 :])
    assert f"byte {second_header:,} of" in refusal(path)
    path.write_bytes(first + tar_bytes([("c.png", encode(3))]))
    assert "after the end of the archive" in refusal(path)
    path.write_bytes(b"this is no tar" * 100)
    assert "damaged tar at byte 0" in refusal(path)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_compressed_data_in_a_tar_name(tmp_path, kind, refusal):
    import bz2
    import lzma

    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[kind]
    (tmp_path / "a.tar").write_bytes(pack(bytes(20_000)))
    assert f"is {kind} data" in refusal(tmp_path / "a.tar")


def test_compressed_shards_are_refused_by_name(tmp_path, refusal):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b""))
    for data in (tmp_path / "a.tar.gz", tmp_path):
        message = refusal(data)
        assert "a.tar.gz is compressed" in message
        assert "gunzip" in message


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        (["a.jpg", "a.png"], ["'a.jpg'", "'a.png'", "share one key"]),
        (["a.jpg", "./a.jpg"], ["share one key"]),
        (["a.jpg", "a.cls", "a.cls"], ["share one key"]),
        (["a.jpg", "b.cls"], ["'b'", "no image member", "b.jpg"]),
        (["a.jpg", "b.v2.jpg"], ["'b.v2.jpg'", "first dot"]),
        (["readme.txt"], ["holds an image", "<key>.jpg"]),
        ([], ["holds an image"]),
    ],
)
def test_member_faults(shard, refusal, members, parts):
    path = shard([(name, b"1") for name in members])
    message = refusal(path)
    assert path in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("text", [b"cat", b"", b"1.5", b"9" * 40, b"\xff"])
def test_label_that_is_no_number(shard, refusal, text):
    message = refusal(shard([("a.png", b"x"), ("a.cls", text)]))
    assert "'a.cls'" in message
    assert "class number" in message


def test_links_are_refused(tmp_path, refusal):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(link)
    message = refusal(path)
    assert "'b.png' is a link" in message


def test_hostile_and_foreign_names_are_only_text(shard):
    path = shard([("../../etc/x.png", b"1"), ("/abs.png", b"2"), ("caf\udce9.png", b"3")])
    ids = listed(path).table.column("image_id").to_pylist()
    assert ids == ["a/../../etc/x", "a//abs", "a/caf\\xe9"]


def test_equal_ids_of_two_shards(shard, tmp_path, refusal):
    shard([(f"{key}.png", b"1") for key in range(8)], "x/s.tar")
    shard([(f"{key}.png", b"1") for key in range(8)], "y/s.tar")
    message = refusal(tmp_path / "{x,y}" / "s.tar")
    for part in ("8 image ids", "s/0", "s/4", "x/s.tar", "y/s.tar", "rename"):
        assert part in message
    assert "s/5" not in message


def test_one_read_for_neighbours_and_any_order(shard, encode, monkeypatch):
    members = [(f"{index}.png", encode(index)) for index in range(6)]
    members.insert(3, ("gap.bin", bytes(2 * 2**20)))
    listing = listed(shard(members))
    reads = []
    real = tar.storage.read_bytes
    monkeypatch.setattr(tar.storage, "read_bytes", lambda *a: reads.append(a) or real(*a))
    assert read_bytes_of(listing.table.slice(1, 2), NO) == [encode(1), encode(2)]
    assert len(reads) == 1
    order = listing.table.take([5, 0, 5, 3])
    assert read_bytes_of(order, NO) == [encode(5), encode(0), encode(5), encode(3)]
    assert len(reads) == 3  # two sides of the gap


def test_shard_that_shrinks_after_listing(shard, encode):
    path = shard([("a.png", encode(1))])
    listing = listed(path)
    Path(path).write_bytes(b"")
    with pytest.raises(ValueError, match=r"changed since"):
        read_bytes_of(listing.table, NO)


def test_shard_of_equal_size_in_its_place(shard, encode):
    path = shard([("a.png", encode(1)), ("b.png", encode(2))])
    listing = listed(path)
    size = Path(path).stat().st_size
    shard([("a.png", encode(1)), ("b.png", encode(3))])
    assert Path(path).stat().st_size == size
    for rows in (listing.table, listing.table.slice(0, 1)):
        with pytest.raises(ValueError, match=r"a\.tar is not what was listed: it changed since"):
            read_bytes_of(rows, NO)
    assert read_bytes_of(listed(path).table, NO) == [encode(1), encode(3)]
