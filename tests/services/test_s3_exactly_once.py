"""The lease, the notes of stages and the remembered listing, on a real S3 server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from pipeline import storage
from pipeline.runs.lease import LeaseError, hold_lease
from pipeline.runs.store import VotesStore
from pipeline.sources import listing
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.listing_cache import cached_listing
from pipeline.voting.isolation import Deaths
from tests.conftest import png, random_images, write_shard

NO = SourceOptions()


def test_of_many_that_begin_at_once_one_holds_the_lease(s3):
    path = VotesStore(f"{s3}/lease", "r1").lease_path
    begun = []

    def begin(number):
        try:
            with hold_lease(path, "run_id=r1", wait=False):
                begun.append(number)
                while len(begun) + len(refused) < 4:
                    time.sleep(0.05)
        except LeaseError:
            refused.append(number)

    refused: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, range(4)))
    assert len(begun) == 1
    assert not storage.exists(path)
    with hold_lease(path, "run_id=r1", wait=False):
        assert storage.exists(path)


def test_notes_are_counted_hidden_and_cleaned_up(s3):
    store = VotesStore(f"{s3}/notes", "r1")
    deaths = Deaths(store, "decode")
    assert [deaths.begin(3), deaths.begin(3)] == [0, 1]
    assert store.committed() == set()
    storage.write_atomically(storage.join(store.folder, "unit-00003.parquet"), b"")
    store.clean_up()
    assert [path.rsplit("/", 1)[-1] for path in storage.list_files(store.folder)] == [
        "unit-00003.parquet"
    ]
    assert deaths.begin(3) == 0


def test_a_listing_is_remembered_by_content_tags(s3, tmp_path, monkeypatch):
    def put(name, count):
        members = {f"{n}.png": png(image) for n, image in enumerate(random_images(count, side=8))}
        shard = write_shard(tmp_path / name, members)
        storage.write_atomically(f"{s3}/listed/data/{name}", shard.read_bytes())

    def scanned():
        found = []
        real = listing.digest_of
        with monkeypatch.context() as patch:
            patch.setattr(listing, "digest_of", lambda file: found.append(file.path) or real(file))
            with cached_listing(f"{s3}/listed/out", f"{s3}/listed/data", NO) as memory:
                images = len(list_images(f"{s3}/listed/data", NO, None, memory))
        return images, [path.rsplit("/", 1)[-1] for path in sorted(found)]

    put("a.tar", 2)
    put("b.tar", 3)
    assert scanned() == (5, ["a.tar", "b.tar"])
    assert scanned() == (5, [])
    put("b.tar", 4)
    assert scanned() == (6, ["b.tar"])


def test_a_lease_that_has_run_out_is_taken_over(s3):
    path = VotesStore(f"{s3}/gone", "r1").lease_path
    gone = {"token": "t", "host": "h", "pid": 1, "birth": None, "since": 0.0, "until": 1.0}
    storage.write_atomically(path, json.dumps(gone).encode())
    with hold_lease(path, "run_id=r1", wait=False):
        assert json.loads(storage.read_bytes(path))["token"] != "t"
    assert not storage.exists(path)
