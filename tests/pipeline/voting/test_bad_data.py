"""Every case of the corpus becomes what is stated of it, and the page says so."""

import numpy as np

from pipeline.sources.decode import decode
from tests.conftest import REPOSITORY
from tests.pipeline.voting.bad_data import bad_images, outcomes_of_images, page
from tests.pipeline.voting.bad_sources import (
    bad_sources,
    encoded,
    outcomes_of_sources,
    reported_sources,
)


def test_images_among_good_ones(tmp_path):
    found = outcomes_of_images(tmp_path)
    assert [(case.name, outcome) for case, outcome, _, _ in found] == [
        (case.name, case.outcome) for case, _, _, _ in found
    ]
    assert all(neighbours_kept for *_, neighbours_kept in found)
    assert all(bool(error) == (outcome == "error row") for _, outcome, error, _ in found)
    assert all(bool(case.note) == (outcome == "voted on") for case, outcome, *_ in found)
    assert len(found) >= 40


def test_what_is_said_of_garbled_pixels_is_true():
    clean = np.asarray(decode(encoded()))
    for case in bad_images():
        if "garbled" in case.name and case.outcome == "voted on":
            changed = not np.array_equal(np.asarray(decode(case.data)), clean)
            assert changed == case.note.startswith("other pixels"), case.name


def test_sources(tmp_path):
    found = outcomes_of_sources(tmp_path, [*bad_sources(), *reported_sources()])
    assert [(case.name, outcome) for case, outcome, _ in found] == [
        (case.name, case.outcome) for case, _, _ in found
    ]
    for _, outcome, words in found:
        if outcome == "refused":
            # The file is named, or the image.
            assert any(part in words for part in ("DIR", "'s/a'", "'p/0'")), words


def test_the_page_is_up_to_date():
    """Else: python -m tests.pipeline.voting.bad_data > docs/bad-data.md."""
    assert (REPOSITORY / "docs/bad-data.md").read_text() == page()
