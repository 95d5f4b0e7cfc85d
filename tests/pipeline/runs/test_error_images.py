"""The share of images with an error, held against the one that is allowed."""

import pytest

from pipeline.runs.error_images import ErrorImages, ErrorRateError


def faulty(count: int) -> ErrorImages:
    return ErrorImages(count=count, first={"a": "no bytes"})


@pytest.mark.parametrize("digits", [2, 3])
def test_a_rate_as_it_is_written_allows_itself_and_nothing_above(digits):
    """0.29 * 100 is 28.999999999999996."""
    images = 10**digits
    for count in range(images + 1):
        most = float(f"0.{count:0{digits}d}") if count < images else 1.0
        faulty(count).check(images, most)
        with pytest.raises(ErrorRateError):
            faulty(count + 1).check(images, most)


@pytest.mark.parametrize(
    ("count", "images", "most", "said"),
    [
        (2, 23, 0.08, "(8.7%) have an error, more than --max-error-rate 8.0%: a: no bytes"),
        (2901, 10_000, 0.29, "(29.01%) have an error, more than --max-error-rate 29.00%"),
        (1, 50_000, 0.0, "(0.002%) have an error, more than --max-error-rate 0.000%"),
    ],
)
def test_two_rates_that_differ_are_said_to(count, images, most, said):
    with pytest.raises(ErrorRateError) as caught:
        faulty(count).check(images, most)
    assert said in str(caught.value)
