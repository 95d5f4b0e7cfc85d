"""Decisions that look at locations, against their definitions on every vector of labels."""

import pytest

from tests.pipeline.certificates.decision_scenes import JUDGEMENTS, SCENES, placement, unknown
from tests.pipeline.certificates.decisions_judge import INSTALLED


@pytest.mark.parametrize("question", JUDGEMENTS)
@pytest.mark.parametrize("place", range(len(SCENES)))
def test_every_vector_of_labels(question, place):
    scene, num_classes, most = SCENES[place]
    assert JUDGEMENTS[question](INSTALLED, scene, num_classes, most) == 0


def test_every_patch_lies_within_a_mask():
    assert placement(INSTALLED) == 0


@pytest.mark.parametrize("place", range(len(SCENES)))
def test_labels_that_were_not_asked_certify_only_what_every_answer_would(place):
    assert unknown(INSTALLED, *SCENES[place]) == 0
