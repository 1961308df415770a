"""What tiers take, from slices of linears."""

import pytest
import torch

from luq.config.named_tiers import NAMED_TIERS
from luq.formats.layer_file import layer_content
from luq.quantization.methods import make_quantizer
from luq.quantization.slices import TierCost, tier_cost

CPU = torch.device("cpu")
SHAPES = [(128, 128), (384, 128), (128, 384)]  # of pocket_llava


@pytest.mark.parametrize("name", ["gptq4", "billm", "rtn4"])
def test_the_bytes_are_those_that_are_packed(name: str) -> None:
    """For shapes that were no slices, too."""
    tier = NAMED_TIERS[name]
    cost = tier_cost(tier, SHAPES, CPU)
    for rows, columns in [SHAPES[0], (256, 256)]:
        generator = torch.Generator().manual_seed(2)
        weight = torch.randn(rows, columns, generator=generator)
        packed = make_quantizer(tier).quantize(weight, torch.eye(columns))
        size = sum(packed.ledger().values())
        assert cost.bytes(rows, columns) == pytest.approx(size, rel=0.01, abs=8)
        header = len(layer_content({"mlp.up_proj": packed})) - size
        assert cost.header_bytes == pytest.approx(header, abs=32)


def test_a_tier_without_data_has_no_factor() -> None:
    cost = tier_cost(NAMED_TIERS["rtn4"], SHAPES, CPU)
    assert cost.factor_seconds(384) == 0
    assert cost.seconds(128, 128) > 0
    assert cost.unpack_seconds > 0


def test_the_formulas() -> None:
    cost = TierCost((1.0, 2.0, 3.0), (4.0, 5.0), (6.0, 7.0, 8.0), 0.0, 0)
    assert cost.seconds(10, 100) == 1 * 100 + 2 * 10 * 100 + 3 * 10 * 100**2
    assert cost.factor_seconds(100) == 4 * 100**2 + 5 * 100**3
    assert cost.bytes(10, 100) == 6 * 10 + 7 * 100 + 8 * 10 * 100


def test_linears_that_are_all_alike_are_halved() -> None:
    cost = tier_cost(NAMED_TIERS["gptq4"], [(256, 256)], CPU)
    assert cost.bytes(256, 256) == pytest.approx(cost.bytes(128, 256) * 2)
