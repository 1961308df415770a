import math

import pytest

from pipelines.units import axis_unit, human


@pytest.mark.parametrize(
    ("count", "places", "text"),
    [
        (0, 2, "0 bytes"),
        (999, 2, "999 bytes"),
        (1000, 2, "1.00 kB"),
        (3_256_496, 3, "3.256 MB"),
        (1_000_000_000, 2, "1.00 GB"),
        (5e12, 0, "5 TB"),
        (math.nan, 2, "-"),
    ],
)
def test_bytes_are_said_in_the_largest_unit_that_fits(count: float, places: int, text: str) -> None:
    assert human(count, places) == text


def test_small_checkpoints_are_drawn_in_megabytes_and_large_ones_in_gigabytes() -> None:
    assert axis_unit(3e6).name == "MB"
    assert axis_unit(1.9e9).name == "MB"
    assert axis_unit(14e9).name == "GB"
