"""The published certificate: right where its formula is, and caught where it is not."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.analysis import open_run
from pipeline.analysis.audit import audits
from pipeline.certificates.published import published_delta, published_margins
from pipeline.config import ConfigError
from tests.pipeline.analysis.stored_runs import write_run


def column(stride: int, size: int = 19, width: int = 224) -> Ablation:
    return Ablation(kind="column", size=size, stride=stride, height=width, width=width)


@pytest.mark.parametrize(
    ("size", "side", "stride", "true", "published"),
    # reference: true worst cases counted on pixels, W = 224
    [
        (19, 32, 1, 50, 50),
        (19, 32, 10, 6, 5),
        (19, 32, 5, 11, 10),
        (19, 39, 10, 7, 6),
        (37, 39, 5, 16, 15),
        (19, 32, 16, 4, 4),
    ],
)
def test_the_formula_and_the_truth(size, side, stride, true, published):
    ablation, patch = column(stride, size), Patch.square(side)
    assert published_delta(ablation, patch) == published
    pixels = np.arange(224)
    shown = [set((x + np.arange(size)) % 224) for x in range(0, 224, stride)]
    worst = max(
        sum(bool(band & set(pixels[x : x + side])) for band in shown) for x in range(225 - side)
    )
    assert worst == true == ablation.max_touched(patch)


def test_blocks_multiply_and_random_positions_have_no_formula():
    block = Ablation(kind="block", size=75, stride=10, height=224, width=224)
    assert published_delta(block, Patch.square(23)) == 10**2
    drawn = Ablation(kind="column", size=19, stride=1, height=224, width=224, random=9)
    with pytest.raises(ValueError, match="no stride"):
        published_delta(drawn, Patch.square(23))


def test_its_lead_must_be_strict():
    ablation = column(16)
    votes = np.array([[0] * 11 + [1] * 3, [0] * 12 + [1] * 2])
    assert published_margins(votes, ablation, Patch.square(32), 3).tolist() == [-1, 1]


@pytest.fixture(scope="module")
def fooled(tmp_path_factory):
    """The known stride-10 counterexample, its mirror image, and an image that stays certified."""
    out = tmp_path_factory.mktemp("audit")
    ablation = column(10)
    # Columns whose bands a patch of 32 px at the left edge touches: the first four, and two
    # that wrap around.
    touched = np.isin(np.arange(23), [0, 1, 2, 3, 21, 22])
    rest = np.flatnonzero(~touched)
    votes = np.zeros((3, 23), int)
    votes[0, rest[:6]] = 1
    votes[1], votes[2, :3] = 1 - votes[0], 1
    run_id = write_run(out, votes, [0, 1, 0], ablation=ablation, classes=2)
    return open_run(str(out), run_id)


def test_a_certificate_that_does_not_hold_is_broken(fooled):
    (audit,) = audits(fooled, [10], [32])
    assert (audit.delta_published, audit.delta, audit.divides) == (5, 6, False)
    assert (audit.published, audit.uniform, audit.exact, audit.wrongly) == (3, 1, 1, 2)
    first = audit.flips.to_pylist()[0]
    assert first["votes_before"] == [17, 6]
    assert first["votes_after"] == [11, 12]
    assert first["touched"] == [0, 1, 2, 3, 21, 22]
    assert (first["prediction"], first["rival"], first["x"]) == (0, 1, 0)


def test_every_stored_flip_flips(fooled):
    (audit,) = audits(fooled, [10], [32])
    votes = dict(zip(fooled.votes.ids, fooled.votes.votes, strict=True))
    for flip in audit.flips.to_pylist():
        cast = votes[flip["image_id"]].copy()
        assert np.bincount(cast, minlength=2).argmax() == flip["prediction"]
        cast[flip["touched"]] = flip["rival"]
        assert np.bincount(cast, minlength=2).argmax() == flip["rival"]


def test_where_the_stride_divides_nothing_breaks(answered, tmp_path):
    ablation = column(1, size=4, width=32)
    rng = np.random.default_rng(1)
    votes = np.where(rng.random((200, 32)) < 0.3, rng.integers(0, 4, (200, 32)), 0)
    run_id = write_run(tmp_path, votes, [0] * 200, ablation=ablation, classes=4)
    found = list(audits(open_run(str(tmp_path), run_id), [1, 2, 4, 8], [2, 4, 5]))
    assert len(found) == 12
    assert all(audit.divides and audit.wrongly == 0 for audit in found)
    assert all(audit.published <= audit.uniform <= audit.exact for audit in found)
    assert any(audit.published < audit.exact for audit in found)
    with pytest.raises(ConfigError, match="stride=5"):
        list(audits(open_run(str(answered.out), answered.first), [5], [32]))


def test_the_command_writes_what_it_broke(fooled, capsys):
    assert main(["audit", "--out", fooled.out, "--patch", "32"]) == 0
    said = capsys.readouterr().out
    assert "5 / 6" in said
    assert said.strip().endswith(f"run_id={fooled.run_id}")
    table = pq.read_table(f"{fooled.out}/audit/run_id={fooled.run_id}/flips.parquet")
    assert table.num_rows == 2
    assert main(["audit", "--out", fooled.out, "--patch", "300"]) == 2
    assert main(["audit", "--out", fooled.out, "--stride", "0"]) == 2
