"""Names that may have been meant."""

import pytest

from luq.errors import SHOWN_NAMES, nearest, unknown


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        (
            "pocket_lava",
            ["llava_7b", "pocket_llava", "pocket_qwen"],
            ["pocket_llava", "pocket_qwen"],
        ),
        ("bilm", ["billm", "gptq4", "trellis2", "arb_rc"], ["billm"]),
        ("rnu", ["run", "report", "export"], ["run"]),
        ("PARETO", ["pareto", "bits"], ["pareto"]),
        ("quantiser.low", ["quantizer.high", "quantizer.low"], ["quantizer.low", "quantizer.high"]),
        ("xyz", ["pareto", "bits"], []),
        ("", ["pareto", "bits"], []),
        ("run", [], []),
    ],
)
def test_the_most_similar_names_come_first(
    name: str, known: list[str], expected: list[str]
) -> None:
    assert nearest(name, known) == expected


def test_no_more_than_three_are_suggested() -> None:
    assert len(nearest("layer", [f"layer{index}" for index in range(9)])) == 3


def test_an_error_names_what_is_known() -> None:
    assert str(unknown("tier", "bilm", ["gptq4", "billm"])) == (
        "unknown tier 'bilm': did you mean billm? known are billm, gptq4"
    )
    assert str(unknown("tier", "x", [])) == "unknown tier 'x': there are none"
    many = [f"layer{index}" for index in range(SHOWN_NAMES + 1)]
    assert str(unknown("layer", "layr0", many)).startswith("unknown layer 'layr0': did you mean")
    assert "known are" not in str(unknown("layer", "layr0", many))
    assert str(unknown("layer", "%", many)).endswith(", ...")
