"""Agreement vote by vote: by hand, against plain loops, in any order, in bounded memory."""

import json

import numpy as np
import pytest

from jobs.cli import main
from models.views.ablations import Ablation
from models.views.sampling import draw_positions
from pipeline.analysis import agreement as module
from pipeline.analysis import open_run
from pipeline.analysis.comparison import compare
from tests.pipeline.analysis.stored_runs import write_run

GAPS = {"theta": None, "gaps": True}
BLOCKS = Ablation(kind="block", size=3, stride=5, height=10, width=10)


def numerics(dtype: str) -> dict:
    return {"device": "cpu", "dtype": dtype}


def two(out, votes, other, **more):
    """A float32 run with gaps and a bfloat16 run without."""
    labels = [1] * len(votes)
    gaps = more.pop("gaps", None)
    first = write_run(out, votes, labels, voting=GAPS, gaps=gaps, **more)
    second = write_run(out, other, labels, numerics=numerics("bfloat16"), **more)
    return open_run(out, first), open_run(out, second)


def test_by_hand(tmp_path):
    votes = np.ones((3, 4), int)
    other = votes.copy()
    other[0, 1], other[0, 2], other[2, :3] = 2, 3, 0
    gaps = np.full((3, 4), 3.0)
    gaps[0, 1:3], gaps[2, :3], gaps[1, 0] = (0.25, 0.125), (0.5, 1.0, 0.75), 0.6
    first, second = two(tmp_path, votes, other, gaps=gaps, ablation=BLOCKS, unit_images=2)
    found = compare(first, second).votes
    assert (found.images, found.ablations, found.equal) == (3, 12, 7)
    assert (found.images_differ, found.predictions_differ) == (2, 1)
    assert found.gaps.run is first
    assert (found.gaps.median, found.gaps.largest) == (0.5, 1.0)
    assert found.gaps.below == 1.0 + 2**-10
    assert found.gaps.as_near == 6  # the five, and one where the runs agree
    assert found.gaps.where == ("shard-000/002", 1, 0, 5, 1, 0)
    back = compare(second, first).votes
    assert back.gaps.where == ("shard-000/002", 1, 0, 5, 0, 1)
    assert back.gaps.run is second is not first or back.gaps.run.run_id == first.run_id
    assert compare(first, second).to_dict()["votes"]["share_equal"] == 7 / 12


def test_the_gaps_of_float32_are_told(tmp_path):
    votes, other = np.ones((2, 10), int), np.ones((2, 10), int)
    other[1, 3] = 2
    runs = [
        open_run(
            tmp_path,
            write_run(
                tmp_path,
                cast,
                [1, 1],
                voting=GAPS,
                gaps=np.full((2, 10), gap),
                numerics=numerics(dtype),
            ),
        )
        for cast, gap, dtype in ((votes, 2.0, "bfloat16"), (other, 0.5, "float32"))
    ]
    for pair in (runs, runs[::-1]):
        gaps = compare(*pair).votes.gaps
        assert (gaps.run.run_id, gaps.largest, gaps.median) == (runs[1].run_id, 0.5, 0.5)


@pytest.mark.parametrize("block", [1 << 24, 70, 1], ids="block={}".format)
def test_shuffled_images_errors_and_units_of_other_sizes(block, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_VOTES", block)
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 3, (40, 10))
    other = np.where(rng.random((40, 10)) < 0.1, rng.integers(0, 3, (40, 10)), votes)
    gaps = rng.random((40, 10)).astype(np.float16)
    ids = [f"x/{i:02d}" for i in range(40)]
    order = rng.permutation(40)
    first = write_run(
        tmp_path,
        votes,
        [1] * 40,
        ids=ids,
        voting=GAPS,
        gaps=gaps,
        errors=(3,),
        unit_images=7,
    )
    bad = (0, 5)
    second = write_run(
        tmp_path,
        other[order],
        [1] * 40,
        ids=[ids[image] for image in order],
        errors=bad,
        unit_images=11,
        model="small",
    )
    found = compare(open_run(tmp_path, first), open_run(tmp_path, second)).votes
    voted = np.setdiff1d(np.arange(40), [3, *order[list(bad)]])
    differ = (votes != other)[voted]
    assert (found.images, found.ablations) == (len(voted), 10 * len(voted))
    assert found.equal == (~differ).sum()
    assert found.images_differ == differ.any(axis=1).sum()
    disputed = gaps[voted][differ]
    assert found.gaps.median == np.median(disputed.astype(float))
    assert found.gaps.largest == disputed.max()
    assert found.gaps.as_near == (gaps[voted] <= disputed.max()).sum()
    where = found.gaps.where
    image = ids.index(where.image_id)
    assert gaps[image, where.ablation] == disputed.max()
    assert (votes[image, where.ablation], other[image, where.ablation]) == where[-2:]
    winners = [[np.bincount(cast).argmax() for cast in of[voted]] for of in (votes, other)]
    assert found.predictions_differ == np.not_equal(*winners).sum()


def test_positions_drawn_for_each_image(tmp_path):
    """Vote number k is of the ablation that was drawn k-th; ``views`` says which."""
    drawn = {"draws": 10, "seed": 3}
    votes, other = np.ones((1, 10), int), np.ones((1, 10), int)
    other[0, 7] = 2
    first, second = two(tmp_path, votes, other, randomized=drawn)
    position = int(first.table("votes")["views"][0].as_py()[7])
    assert compare(first, second).votes.gaps.where.ablation == position
    again = write_run(tmp_path, other, [1], randomized=drawn | {"seed": 4})
    assert compare(first, open_run(tmp_path, again)).votes is None
    assert len(draw_positions("a", 3, 10, 10)) == 10


def test_what_is_not_cast_on_the_same_ablations_is_not_compared(tmp_path):
    votes = np.ones((2, 10), int)
    first = open_run(tmp_path, write_run(tmp_path, votes, [1, 1], voting=GAPS))
    coarse = Ablation(kind="column", size=2, stride=2, height=10, width=10)
    sets = np.stack([votes, np.full_like(votes, -1)], axis=2)
    for run_id in (
        write_run(tmp_path, votes[:, ::2], [1, 1], ablation=coarse),
        write_run(tmp_path, sets, [1, 1], voting={"theta": 0.4, "gaps": False}),
    ):
        found = compare(first, open_run(tmp_path, run_id))
        assert found.votes is None
        assert found.to_dict()["votes"] is None


def test_without_gaps_and_without_a_difference(tmp_path):
    votes = np.ones((2, 10), int)
    bare = open_run(tmp_path, write_run(tmp_path, votes, [1, 1]))
    other = votes.copy()
    other[0, 0] = 2
    differs = open_run(tmp_path, write_run(tmp_path, other, [1, 1], model="small"))
    found = compare(bare, differs).votes
    assert (found.equal, found.gaps) == (19, None)
    first, second = two(tmp_path, votes, votes)
    found = compare(first, second).votes
    assert (found.equal, found.images_differ, found.gaps) == (20, 0, None)
    nothing = open_run(tmp_path, write_run(tmp_path, votes, [1, 1], model="dead", errors=(0, 1)))
    found = compare(bare, nothing).votes
    assert (found.images, found.ablations) == (0, 0)
    assert found.to_dict()["share_equal"] is None


def test_the_command_says_it(tmp_path, capsys):
    votes, other = np.ones((4, 10), int), np.ones((4, 10), int)
    other[3, 4] = 2
    first, second = two(tmp_path, votes, other)
    command = ["compare", first.run_id, second.run_id, "--out", str(tmp_path)]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "97.50 % of 40 ablations of 4 images vote equally; 1 differ, on 1 images" in said
    assert "less than 0.5005 apart, 0.5 at the median" in said
    assert "shard-000/003, ablation 4 (x = 4), class 1 or 2." in said
    assert main([*command, "--json"]) == 0
    gaps = json.loads(capsys.readouterr().out)["votes"]["gaps_where_they_differ"]
    assert (gaps["run_id"], gaps["dtype"], gaps["largest"]) == (first.run_id, "float32", 0.5)
