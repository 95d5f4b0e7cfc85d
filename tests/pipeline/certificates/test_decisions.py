"""Decisions that look at locations, against their definitions on every vector of labels."""

import pytest

from tests.pipeline.certificates.decision_scenes import BANDS, JUDGEMENTS, MASKED, placement
from tests.pipeline.certificates.decisions_judge import INSTALLED


@pytest.mark.parametrize("question", JUDGEMENTS)
@pytest.mark.parametrize("place", range(len(BANDS + MASKED)))
def test_every_vector_of_labels(question, place):
    scene, num_classes, most = [*BANDS, *MASKED][place]
    assert JUDGEMENTS[question](INSTALLED, scene, num_classes, most) == 0


def test_every_patch_lies_within_a_mask():
    assert placement(INSTALLED) == 0
