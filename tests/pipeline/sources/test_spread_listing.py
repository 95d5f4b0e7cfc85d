"""A listing whose files are opened in tasks is the listing of the driver's threads."""

import os
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cluster.executor import LOCAL
from pipeline.sources import listing
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.listing_cache import ListingCache
from pipeline.storage import parallel

NO = SourceOptions()


@pytest.fixture
def hand_over(monkeypatch):
    """The driver opens one file and hands over all others."""

    def one_by_one(function, items, enough=lambda begun: False):
        results = []
        for item in items:
            results.append(function(item))
            if enough(len(results)):
                break
        return results

    monkeypatch.setattr(parallel, "in_threads", one_by_one)
    monkeypatch.setattr(parallel, "_TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(parallel, "_LEFT_SECONDS", 0.0)


class Tasks:
    """Stands for an executor's map: yields in an order of its own; ``calls`` are the items."""

    def __init__(self, reverse=False):
        self.calls, self.reverse = [], reverse

    def __call__(self, task, items):
        # As on the way to another machine and back.
        task, items = pickle.loads(pickle.dumps((task, list(items))))
        self.calls += [file.path for _, batch in items for file in batch]
        results = pickle.loads(pickle.dumps([task(item) for item in items]))
        random.Random(0).shuffle(results)
        if self.reverse:
            results.sort(reverse=True, key=lambda result: result[0])
        yield from results


@pytest.fixture
def many(shard, tmp_path, encode):
    for number in range(9):
        members = [(f"{i}.png", encode(i)) for i in range(1 + number % 3)]
        shard([*members, ("0.cls", b"1"), ("more.json", b"{}")], f"d/s-{number}.tar")
    return tmp_path / "d"


def test_small_sources_stay_with_the_driver(many, monkeypatch):
    tasks = Tasks()
    list_images(str(many), NO, 10, spread=tasks)
    # One that takes long, but will end before tasks could begin.
    monkeypatch.setattr(parallel, "_TRIAL_SECONDS", 0.0)
    list_images(str(many), NO, 10, spread=tasks)
    assert tasks.calls == []


@pytest.mark.parametrize("kind", ["tar", "folder", "parquet"])
def test_tasks_list_what_threads_list(kind, many, tmp_path, encode, hand_over):
    data = many
    if kind != "tar":
        data = tmp_path / kind
        for number in range(9):
            if kind == "folder":
                path = data / str(number % 2) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode(number))
            else:
                data.mkdir(exist_ok=True)
                rows = {"image": [encode(number)] * 2, "label": [number, 3]}
                pq.write_table(pa.table(rows), data / f"{number}.parquet")
    memory, here = ListingCache(), ListingCache()
    tasks = Tasks()
    spread = list_images(str(data), NO, 10, memory, spread=tasks)
    assert spread == list_images(str(data), NO, 10, here)
    assert memory == here
    assert list(memory.found) == list(here.found)
    assert len(set(tasks.calls)) == len(tasks.calls) == 8
    # What is remembered is opened by nobody.
    again = Tasks()
    assert list_images(str(data), NO, 10, ListingCache(known=memory.found), spread=again) == spread
    assert again.calls == []


@pytest.mark.parametrize("damage", ["cut", "directory"])
def test_errors_are_the_drivers_and_the_same(many, damage, hand_over, refusal):
    for name in ("s-5.tar", "s-7.tar"):
        path = many / name
        raw = path.read_bytes()
        path.unlink()
        path.mkdir() if damage == "directory" else path.write_bytes(raw[:700])
    data = f"{many}/*.tar"
    expected = refusal(data)
    assert "s-5.tar" in expected
    with pytest.raises(SourceError) as caught:
        list_images(data, NO, 10, spread=Tasks(reverse=True))
    assert str(caught.value) == expected


def test_a_node_that_has_other_files_or_none_lists_none(many, hand_over, monkeypatch):
    """The files whose digests make a run must not depend on the node that took a task."""
    expected = list_images(str(many), NO, 10)
    opened, here = [], []
    real = listing._open

    def note(kind, options, file):
        (opened if away else here).append(os.path.basename(file.path))
        return real(kind, options, file)

    away = False

    class Node(Tasks):
        def __call__(self, task, items):
            nonlocal away
            # What the node has: a copy of one shard, written at another time, and none of another.
            for name in ("s-6.tar", "s-8.tar"):
                os.rename(many / name, many / f"{name}.kept")
            (many / "s-6.tar").write_bytes((many / "s-5.tar").read_bytes())
            away = True
            outcomes = list(super().__call__(task, items))
            away = False
            for name in ("s-6.tar", "s-8.tar"):
                os.rename(many / f"{name}.kept", many / name)
            yield from outcomes

    monkeypatch.setattr(listing, "_open", note)
    found = list_images(str(many), NO, 10, spread=Node())
    assert found.fingerprint == expected.fingerprint
    assert not {"s-6.tar", "s-8.tar"} & set(opened)
    assert {"s-6.tar", "s-8.tar"} <= set(here)


def test_batches_keep_the_order_and_are_bounded(monkeypatch):
    monkeypatch.setattr(parallel, "_TASK_BYTES", 30)
    items = list(range(100))
    batches = list(parallel._batches(items, [10] * 100))
    assert [one for batch in batches for one in batch] == items
    assert max(map(len, batches)) == 1  # few files: a task each
    assert {len(batch) for batch in parallel._batches(items * 100, [10] * 10_000)} == {3, 1}
    assert list(parallel._batches(items, [0] * 100)) == [[one] for one in items]


def test_tasks_of_ray_list_what_threads_list(many, hand_over, ray_session):
    expected = list_images(str(many), NO, 10)
    assert list_images(str(many), NO, 10, spread=LOCAL.map) == expected
