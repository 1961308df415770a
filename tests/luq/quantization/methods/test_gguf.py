"""Error feedback on llama.cpp's grids."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from luq.config import GgufTier, GptqTier
from luq.config.quantizer.gguf import GGUF_TYPES
from luq.errors import DataError
from luq.formats.gguf import KINDS, GgufWeight
from luq.formats.gguf_blocks import BLOCK_TYPES
from luq.quantization import hessian as hessians
from luq.quantization.block_grid import fit
from luq.quantization.gguf_grids import fitted_grid
from luq.quantization.hessian import decompose
from luq.quantization.methods import make_quantizer
from luq.quantization.methods.gguf import Gguf
from tests.conftest import correlated, loss

WEIGHT = torch.randn(24, 512, generator=torch.Generator().manual_seed(0))
NAMES = pytest.mark.parametrize("name", GGUF_TYPES)


@pytest.fixture(scope="module")
def hessian() -> Tensor:
    return correlated(1500, 512)


def nearest(name: str, weight: Tensor, importance: Tensor) -> Tensor:
    """The weight rounded to the searched grid, without feedback: as llama.cpp does it."""
    kind = KINDS[name]
    group = torch.arange(weight.shape[1]) // kind.group
    grid = fitted_grid(kind, weight, importance, 20 if name in BLOCK_TYPES else 5)
    return grid.decode(grid.encode(weight, group), group)


@NAMES
def test_feedback_makes_the_error_smaller(name: str, hessian: Tensor) -> None:
    packed = Gguf(GgufTier(name)).quantize(WEIGHT, hessian)
    assert packed.kind.name == name
    rounded = nearest(name, WEIGHT, hessian.diagonal())
    assert loss(WEIGHT, packed.dequantize(), hessian) < 0.8 * loss(WEIGHT, rounded, hessian)


def reference(weight: Tensor, hessian: Tensor, tier: GgufTier, importance: Tensor) -> Tensor:
    """GPTQ in float64, one column after the other, on one grid."""
    kind = BLOCK_TYPES[tier.type]
    columns = weight.shape[1]
    grid = fit(kind, weight, importance, tier.clip_steps)
    group = torch.arange(columns) // kind.group
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    w = weight.double()[:, order].clone()
    h = hessian.double()[order][:, order]
    h += tier.damping * h.diagonal().mean() * torch.eye(columns, dtype=torch.double)
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    out = torch.zeros_like(weight)
    for j, column in enumerate(order.tolist()):
        at = group[column : column + 1]
        value = grid.decode(grid.encode(w[:, j : j + 1].float(), at), at)
        out[:, column] = value[:, 0]
        w[:, j:] -= ((w[:, j] - value[:, 0]) / upper[j, j])[:, None] * upper[j, j:]
    return out


@pytest.mark.parametrize("name", ["q2_k", "iq4_nl", "q5_1"])
def test_rows_are_the_best_of_three_sweeps(name: str, hessian: Tensor) -> None:
    tier = GgufTier(name)
    importance = hessian.diagonal()
    swept = [
        reference(WEIGHT, hessian, tier, each)
        for each in (importance, importance.sqrt(), torch.ones_like(importance))
    ]

    def row_errors(values: Tensor) -> Tensor:
        difference = (values - WEIGHT).double()
        return ((difference @ hessian.double()) * difference).sum(1)

    least = torch.stack([row_errors(values) for values in swept]).amin(0)
    found = row_errors(Gguf(tier).quantize(WEIGHT, hessian).dequantize())
    # a rounding error may turn a code over, and all that come after it
    assert float((found / least - 1).abs().median()) < 1e-3
    assert float(found.sum()) == pytest.approx(float(least.sum()), rel=0.02)


def test_two_levels_beat_one_at_the_same_bits(hessian: Tensor) -> None:
    """Q4_K has groups of 32 with a shift, at as many bits as Q4_0 without; Q3_K of 16."""
    errors = {
        name: loss(WEIGHT, Gguf(GgufTier(name)).quantize(WEIGHT, hessian).dequantize(), hessian)
        for name in ("q4_k", "q4_0", "q3_k", "q2_k", "q6_k", "q8_0")
    }
    gptq3 = make_quantizer(GptqTier(bits=3, act_order=True, static_groups=True, clip_steps=20))
    assert errors["q8_0"] < errors["q6_k"] < errors["q4_k"] < errors["q3_k"] < errors["q2_k"]
    assert errors["q4_k"] < errors["q4_0"]
    assert errors["q3_k"] < loss(WEIGHT, gptq3.quantize(WEIGHT, hessian).dequantize(), hessian)


def test_descent_lowers_the_error(hessian: Tensor) -> None:
    plain = Gguf(GgufTier("q3_k")).quantize(WEIGHT, hessian).dequantize()
    descended = Gguf(GgufTier("q3_k", descent=2)).quantize(WEIGHT, hessian).dequantize()
    assert loss(WEIGHT, descended, hessian) < loss(WEIGHT, plain, hessian)


@pytest.mark.parametrize("name", ["q2_k", "q4_0"])
def test_the_unit_of_the_hessian_does_not_matter(name: str, hessian: Tensor) -> None:
    packed = Gguf(GgufTier(name)).quantize(WEIGHT, hessian)
    for factor in (2.0**-20, 2.0**20):
        scaled = Gguf(GgufTier(name)).quantize(WEIGHT, hessian * factor)
        assert torch.equal(packed.buffers["blocks"], scaled.buffers["blocks"])


def test_linears_that_share_an_input_share_one_factor(
    hessian: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    original: Callable[..., hessians.UnitFactor] = decompose

    def counted(*given: object) -> hessians.UnitFactor:
        made.append(given)
        return original(*given)

    monkeypatch.setattr(hessians, "decompose", counted)
    quantizer = Gguf(GgufTier("q4_0"))
    first = quantizer.quantize(WEIGHT, hessian)
    assert torch.equal(
        quantizer.quantize(WEIGHT, hessian).buffers["blocks"], first.buffers["blocks"]
    )
    assert len(made) == 1


def test_columns_that_no_token_used_are_zero_or_near(hessian: Tensor) -> None:
    unused = hessian.clone()
    unused[:, 64:96] = 0
    unused[64:96] = 0
    packed = Gguf(GgufTier("q4_0")).quantize(WEIGHT, unused)
    assert float(packed.dequantize()[:, 64:96].abs().max()) == 0


def of_width(columns: int, tier: GgufTier) -> GgufWeight:
    weight = torch.randn(4, columns, generator=torch.Generator().manual_seed(columns))
    return Gguf(tier).quantize(weight, correlated(3 * columns, columns))


@pytest.mark.parametrize(
    ("name", "other"),
    [("q4_k", "q5_0"), ("q5_k", "q5_1"), ("q6_k", "q8_0"), ("q3_k", "iq4_nl"), ("q2_k", "iq4_nl"),
     ("tq1_0", "q4_0"), ("tq2_0", "q4_0"), ("iq1_m", "iq4_nl"), ("iq1_s", "iq4_nl"),
     ("iq2_xxs", "iq4_nl"), ("iq2_xs", "iq4_nl"), ("iq2_s", "iq4_nl"), ("iq3_xxs", "iq4_nl"), ("iq3_s", "iq4_nl"), ("iq4_xs", "iq4_nl")],
)  # fmt: skip
def test_narrow_rows_get_the_type_that_llama_cpp_takes_if_that_is_asked(
    name: str, other: str
) -> None:
    with pytest.raises(
        DataError,
        match=rf"rows of 96 weights, and {name} needs whole blocks of 256\. llama\.cpp takes {other} there .*fallback: true",
    ):
        of_width(96, GgufTier(name))
    assert of_width(96, GgufTier(name, fallback=True)).kind.name == other
    assert of_width(256, GgufTier(name, fallback=True)).kind.name == name


@pytest.mark.parametrize(
    "tier", [GgufTier("q4_0"), GgufTier("q4_k"), GgufTier("q4_k", fallback=True)]
)
def test_rows_that_no_type_takes_are_refused(tier: GgufTier) -> None:
    with pytest.raises(
        DataError, match=r"rows of 100 weights.* Use a tier that takes any rows, such as gptq4"
    ):
        of_width(100, tier)
