"""Images that kill their process become rows; children are real processes that really abort."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runs.store import VotesStore
from pipeline.voting import isolation
from pipeline.voting.isolation import Deaths, Guarded, in_children


class Doubling:
    """Doubles ``x``, except that ``deadly`` ones abort the process."""

    def __init__(self, deadly=(), once=None, unborn=False, endless=()):
        if unborn:
            raise ValueError("no such network")
        self.deadly, self.once, self.endless = deadly, once, endless

    def __call__(self, rows):
        for x in rows["x"].to_pylist():
            if x in self.deadly:
                os.abort()
            if x in self.endless:
                time.sleep(3600)
            if self.once is not None and not Path(self.once).exists():
                Path(self.once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        doubled = [2 * x for x in rows["x"].to_pylist()]
        return pa.table({"x": doubled, "error": pa.nulls(len(doubled), pa.string())})

    def failed(self, rows, reason):
        return pa.table({"x": [None] * rows.num_rows, "error": [reason] * rows.num_rows}).cast(
            pa.schema([("x", pa.int64()), ("error", pa.string())])
        )


ROWS = pa.table({"unit": [7] * 4, "x": [0, 1, 2, 3]})
REASON = "kills the process that handles it (SIGABRT)"


def test_two_deadly_images_of_four():
    make = partial(Doubling, deadly=(1, 3))
    table = in_children(make, make(), ROWS, 600)
    assert table["x"].to_pylist() == [0, None, 4, None]
    assert table["error"].to_pylist() == [None, REASON, None, REASON]


def test_images_without_end_are_given_up(monkeypatch):
    """The first of them before anything tells how long an image takes."""
    monkeypatch.setattr(isolation, "_LEAST_LIMIT", 1.0)
    make = partial(Doubling, endless=(0, 2))
    table = in_children(make, make(), ROWS, 4)
    assert table["x"].to_pylist() == [None, 2, None, 6]
    reason = "has no end, while others of its unit came to theirs"
    assert table["error"].to_pylist() == [reason, None, reason, None]


def test_where_all_are_late_the_machine_is_slow():
    make = partial(Doubling, endless=(0, 1, 2, 3))
    with pytest.raises(RuntimeError, match=r"no image of this unit was done in 0.1 s.*stall"):
        in_children(make, make(), ROWS, 0.1)


def test_an_image_without_end_that_is_a_unit_by_itself_is_given_up():
    make = partial(Doubling, endless=(0,))
    table = in_children(make, make(), ROWS.slice(0, 1), 0.1)
    assert table["error"].to_pylist() == ["was not done in 0.1 s, twice"]


def test_a_child_that_dies_once_costs_no_image(tmp_path):
    make = partial(Doubling, once=str(tmp_path / "died"))
    assert in_children(make, make(), ROWS, 600)["x"].to_pylist() == [0, 2, 4, 6]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("make", [partial(Doubling, unborn=True), lambda: Doubling(deadly=())])
def test_where_no_child_can_begin_the_unit_is_handled_whole(make):
    """A network that has no room a second time; a program's own module that cannot be sent."""
    assert in_children(make, Doubling(), ROWS, 600)["x"].to_pylist() == [0, 2, 4, 6]


@pytest.fixture
def deaths(tmp_path):
    return Deaths(VotesStore(str(tmp_path), "r1"), "vote")


def die_over(deaths, times):
    """What processes leave that die over unit 7."""
    for _ in range(times):
        deaths.begin(7)


@pytest.mark.parametrize("times", [0, 1])
def test_a_unit_that_killed_nobody_yet_is_handled_whole(deaths, times):
    die_over(deaths, times)
    guarded = Guarded(Doubling, deaths, 600)
    guarded.make = None  # a child could not be made
    assert guarded(ROWS)["x"].to_pylist() == [0, 2, 4, 6]
    assert not list(Path(deaths.store.folder).iterdir())


def test_the_third_time_images_are_taken_one_by_one(deaths):
    die_over(deaths, 2)
    guarded = Guarded(partial(Doubling, deadly=(2,)), deaths, 600)
    assert guarded(ROWS)["error"].to_pylist() == [None, None, REASON, None]
    assert not list(Path(deaths.store.folder).iterdir())


def test_the_number_of_deaths_is_bounded(deaths):
    die_over(deaths, 8)
    with pytest.raises(RuntimeError, match="unit 7: 8 processes died"):
        Guarded(Doubling, deaths, 600)(ROWS)
    assert deaths.begin(7) == 0  # a later job may try again


def test_an_exception_is_no_death(deaths):
    guarded = Guarded(Doubling, deaths, 600)
    with pytest.raises(KeyError):
        guarded(ROWS.drop_columns(["x"]))
    assert deaths.begin(7) == 0


def test_an_exit_is_a_death(deaths):
    """What hangs is given up by ending its process, which Python code may notice."""

    def leave(rows):
        raise SystemExit

    with pytest.raises(SystemExit):
        Guarded(lambda: leave, deaths, 600)(ROWS)
    assert deaths.begin(7) == 1


def test_stages_count_apart_and_readers_see_no_notes(deaths):
    die_over(deaths, 2)
    assert Deaths(deaths.store, "decode").begin(7) == 0
    assert deaths.store.committed() == set()
    names = [path.name for path in Path(deaths.store.folder).iterdir()]
    assert all(name.startswith(".") and not name.endswith(".parquet") for name in names)
