"""The views that early exit left out, as `patchcert bench` reads them of stored runs."""

import pytest

from jobs.bench import BenchConfig, saved_by_early_exit
from jobs.cli import main
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.interchange.importing import import_votes
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from tests.pipeline.interchange.test_mask_votes import FLAGS, PAIRS, asked_of
from tests.pipeline.interchange.votes_made_up import wavering, write_npz


def test_the_share_that_early_exit_saved_is_read_from_certified_runs(tmp_path, capsys):
    out = str(tmp_path / "out")
    votes, labels = wavering(12, len(PAIRS), seed=5)
    some = asked_of(votes, votes[:, 0])
    for name, cast in (("whole", votes), ("some", some)):
        file = write_npz(tmp_path / f"{name}.npz", votes=cast, labels=labels, plain=votes[:, 0])
        run_id = import_votes([file], FLAGS, out).run_id
        with pytest.raises(ConfigError, match="no certified run with early exit"):
            saved_by_early_exit(out)
    certify_votes(VotesStore(out, run_id), ClaimsConfig(mlflow="none"))
    (found,) = saved_by_early_exit(out)
    asked = (some >= 0).mean()
    assert 0 < asked < 1
    assert (found["run_id"], found["images"], found["of"]) == (run_id, 12, 45)
    assert found["views_asked"] == pytest.approx(45 * asked)
    assert found["share_saved"] == pytest.approx(1 - asked)
    # Asked before minutes of measuring.
    assert main(["bench", "--saved-by", str(tmp_path / "absent")]) == 2
    assert "--saved-by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"masks": (0,)}, "--masks"), ({"masks": ()}, "--masks"), ({"covers": 225}, "fit an image")],
)
def test_masks_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        BenchConfig(**wrong)
