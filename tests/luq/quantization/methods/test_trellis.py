"""Trellis codes: the search is the best one, the format is as documented, the error near theory."""

import itertools
import math

import pytest
import torch

from luq.config import GptqTier, TrellisTier
from luq.formats.incoherence import (
    BLOCKS,
    OVERLAPPING,
    hadamard,
    length_of,
    overlaps,
    rotate_,
    signs,
    unrotate,
)
from luq.formats.kernels import searches
from luq.formats.trellis import COMPUTED, all_numbers
from luq.quantization.methods import trellis
from luq.quantization.methods.gptq import Gptq
from luq.quantization.methods.trellis import Trellis, search
from tests.conftest import correlated, loss
from tests.luq.formats.test_trellis import decode


@pytest.mark.parametrize("rotation", [BLOCKS, OVERLAPPING])
@pytest.mark.parametrize("size", [1, 3, 12, 128, 384, 1000, 3420, 4096])
def test_rotations_are_orthogonal_and_undone(size: int, rotation: int) -> None:
    x = torch.randn(5, size, generator=torch.Generator().manual_seed(0))
    rotated = x.clone()
    rotate_(rotated, 3, rotation)
    assert torch.allclose(unrotate(rotated, 3, rotation), x, atol=1e-5)
    assert torch.allclose(rotated.square().sum(-1), x.square().sum(-1), rtol=1e-5)
    sideways = x.T.contiguous()
    rotate_(sideways.T, 3, rotation)
    assert torch.equal(sideways.T, rotated)


def hadamards_matrix(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix * size**-0.5


def test_the_transform_is_hadamards_matrix() -> None:
    matrix = hadamards_matrix(16)
    assert torch.allclose(hadamard(torch.eye(16), 16), matrix)
    assert torch.allclose(hadamard(torch.eye(32), 16), torch.block_diag(matrix, matrix))


@pytest.mark.parametrize(("size", "length"), [(3, 2), (40, 32), (63, 32), (96, 64), (576, 512)])
def test_two_transforms_overlap_in_what_is_no_power_of_two(size: int, length: int) -> None:
    """As the module says it: H_last D_2 H_first D_1."""
    assert overlaps(size)
    assert length_of(size, OVERLAPPING) == length
    rest = torch.eye(size - length)
    first = torch.block_diag(hadamards_matrix(length), rest)
    last = torch.block_diag(rest, hadamards_matrix(length))
    matrix = last @ torch.diag(signs(size, 9)) @ first @ torch.diag(signs(size, 7))
    rotated = torch.eye(size)
    rotate_(rotated, 7, OVERLAPPING)  # its rows are rotated unit vectors
    assert torch.allclose(rotated.T, matrix, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 32, 64, 4096])
def test_powers_of_two_are_transformed_as_before(size: int) -> None:
    assert not overlaps(size)
    assert length_of(size, OVERLAPPING) == length_of(size, BLOCKS)
    x = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    rotate_(x, 3, OVERLAPPING)
    rotate_(before, 3)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("shape", "is_said"), [
    ((16, 64), False), ((192, 32), True), ((16, 48), True), ((48, 64), True),
])  # fmt: skip
def test_the_rotation_is_said_where_it_is_not_what_it_was(
    shape: tuple[int, int], is_said: bool
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed = Trellis(TrellisTier(bits=2, window=6)).quantize(weight, torch.eye(shape[1]))
    assert packed.meta.get("rotation") == (OVERLAPPING if is_said else None)


def test_outliers_are_spread_over_a_width_without_long_blocks() -> None:
    """One input in fifty is twelve times as large: 190 columns cost no more than 256 do."""
    errors = {}
    for columns in (190, 256):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(32, columns, generator=generator)
        inputs = torch.randn(4 * columns, columns, generator=generator)
        inputs[:, 7::50] *= 12
        hessian = inputs.T @ inputs
        packed = Trellis(TrellisTier(bits=2, window=8)).quantize(weight, hessian)
        nothing = objective_of_nothing(weight, hessian)
        errors[columns] = objective(weight, packed, hessian) / nothing
    assert errors[190] < 1.1 * errors[256]


def test_signs_are_part_of_the_format() -> None:
    """Files depend on them: they must never change."""
    assert signs(24, 1).int().tolist() == SIGNS


SIGNS = [-1, -1, 1, 1, -1, -1, -1, 1, 1, 1, -1, 1, 1, 1, 1, 1, -1, 1, 1, 1, -1, -1, 1, 1]


@pytest.mark.parametrize(
    ("bits", "window", "length"),
    [(1.0, 5, 8), (2.0, 6, 4), (3.0, 7, 3), (4.0, 8, 2), (1.25, 6, 7), (1.75, 6, 5), (2.5, 8, 4)],
)
def test_the_search_finds_the_best_of_all_paths(bits: float, window: int, length: int) -> None:
    generator = torch.Generator().manual_seed(int(4 * bits))
    values = torch.randn(6, length, generator=generator)
    states = torch.randint(0, 2**window, (6,), generator=generator, dtype=torch.int32)
    numbers, mask = all_numbers(window), 2**window - 1
    widths = [math.floor((t + 1) * bits) - math.floor(t * bits) for t in range(length)]
    for found in (
        search(values, states, bits, window),
        searches.viterbi(values, numbers, states, bits, window),
    ):
        for i in range(6):
            least = float("inf")
            for codes in itertools.product(*(range(2**width) for width in widths)):
                state, cost, path = int(states[i]), 0.0, []
                for t, code in enumerate(codes):
                    state = (state << widths[t] | code) & mask
                    path.append(state)
                    cost += float((values[i, t] - numbers[state]) ** 2)
                if cost < least - 1e-9:
                    least, best = cost, path
            assert found[i].tolist() == best


@pytest.mark.parametrize(
    ("bits", "window"), [(1.0, 8), (2.0, 8), (3.0, 10), (4.0, 9), (2.0, 12), (1.5, 8), (3.25, 9)]
)
def test_the_compiled_search_is_torchs(bits: float, window: int) -> None:
    values = torch.randn(7, 300, generator=torch.Generator().manual_seed(0))
    states = torch.arange(7, dtype=torch.int32)
    one = search(values, states, bits, window)
    two = searches.viterbi(values, all_numbers(window), states, bits, window)
    assert torch.equal(one, two)


@pytest.mark.parametrize("bits", [1, 1.25, 2, 2.75, 3, 4])
@pytest.mark.parametrize("shape", [(32, 48), (5, 40), (17, 16)])
def test_what_is_stored_is_what_was_found(bits: float, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed = Trellis(TrellisTier(bits=bits, window=9)).quantize(weight, correlated(200, shape[1]))
    assert torch.allclose(packed.dequantize(), decode(packed), atol=1e-6)
    assert packed.nominal_bits == bits
    assert packed.meta["code"] == COMPUTED
    assert type(packed.meta["bits"]) is (float if bits % 1 else int)


@pytest.mark.parametrize(
    ("bits", "most"),
    [
        (1, 1.14),
        (1.25, 1.15),
        (1.5, 1.17),
        (1.75, 1.2),
        (2, 1.2),
        (2.5, 1.23),
        (3, 1.26),
        (4, 1.33),
    ],
)
def test_gaussian_weights_cost_little_more_than_the_bound(bits: float, most: float) -> None:
    """Shannon's bound is 4^-bits; the best scalar quantizers have 1.45 to 2.43 times that."""
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    packed = Trellis(TrellisTier(bits=bits)).quantize(weight, torch.eye(256))
    error = float((packed.dequantize() - weight).square().mean())
    assert 4.0**-bits < error < most * 4.0**-bits
    assert 8 * sum(packed.ledger().values()) / weight.numel() == bits + 1 / 256


def objective(weight: torch.Tensor, packed, hessian: torch.Tensor) -> float:
    error = (weight - packed.dequantize()).double()
    return float(((error @ hessian.double()) * error).sum())


@pytest.mark.parametrize("bits", [2, 3])
def test_fewer_bits_and_less_error_than_gptq(bits: int) -> None:
    weight, hessian = (
        torch.randn(128, 256, generator=torch.Generator().manual_seed(0)),
        correlated(1000, 256),
    )
    ours = Trellis(TrellisTier(bits=bits)).quantize(weight, hessian)
    theirs = Gptq(GptqTier(bits=bits, act_order=True, static_groups=True, clip_steps=20)).quantize(
        weight, hessian
    )
    assert sum(ours.ledger().values()) < sum(theirs.ledger().values())
    assert objective(weight, ours, hessian) < 0.8 * objective(weight, theirs, hessian)


def test_feedback_lowers_the_error_under_the_hessian() -> None:
    weight, hessian = (
        torch.randn(64, 128, generator=torch.Generator().manual_seed(0)),
        correlated(400, 128),
    )
    with_feedback = Trellis(TrellisTier(bits=2)).quantize(weight, hessian)
    without = Trellis(TrellisTier(bits=2)).quantize(weight, torch.eye(128))
    assert objective(weight, with_feedback, hessian) < 0.8 * objective(weight, without, hessian)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize(
    ("rows", "columns", "spoil"),
    [
        (1, 64, None), (64, 1, None), (7, 13, None), (33, 100, None),
        (32, 64, lambda w: w[3:20].zero_()),
        (32, 64, lambda w: w[:].fill_(0.5)),
        (32, 64, lambda w: w[5, 7].fill_(1000.0)),
        (16, 32, lambda w: w.zero_()),
    ],
    ids=[
        "one row", "one column", "odd", "not of tiles",
        "zero rows", "constant", "outlier", "zeros",
    ],
)  # fmt: skip
def test_odd_cases(bits: int, rows: int, columns: int, spoil) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    if spoil:
        spoil(weight)
    packed = Trellis(TrellisTier(bits=bits)).quantize(weight, correlated(4 * columns, columns))
    found = packed.dequantize()
    assert found.shape == weight.shape
    assert bool(torch.isfinite(found).all())
    hessian = correlated(4 * columns, columns)
    zero = float(((weight @ hessian) * weight).sum())
    assert objective(weight, packed, hessian) <= max(0.7 * zero, 1e-12)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_a_singular_hessian_does_not_run_away(bits: int, rank: int) -> None:
    """Few tokens, or none: with feedback the error stays below that of no weight at all."""
    weight, tokens = (
        torch.randn(48, 64, generator=torch.Generator().manual_seed(0)),
        correlated(100, 64)[:rank],
    )
    hessian = 2 * tokens.T @ tokens
    packed = Trellis(TrellisTier(bits=bits)).quantize(weight, hessian)
    assert bool(torch.isfinite(packed.dequantize()).all())
    zero = float(((weight @ hessian) * weight).sum())
    assert objective(weight, packed, hessian) <= 0.6 * zero


def test_a_spread_tried_on_some_strips_is_encoded_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many strips some choose the spread, and the error hardly differs."""
    weight, hessian = (
        torch.randn(16 * 12, 64, generator=torch.Generator().manual_seed(0)),
        correlated(400, 64),
    )
    whole = Trellis(TrellisTier(bits=2)).quantize(weight, hessian)
    monkeypatch.setattr(trellis, "SAMPLE", 3)
    sampled = Trellis(TrellisTier(bits=2)).quantize(weight, hessian)
    assert sampled.buffers["codes"].shape == whole.buffers["codes"].shape
    assert objective(weight, sampled, hessian) < 1.05 * objective(weight, whole, hessian)


def test_feedback_by_blocks_is_feedback_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = (
        torch.randn(32, 160, generator=torch.Generator().manual_seed(0)),
        correlated(600, 160),
    )
    whole = Trellis(TrellisTier(bits=2)).quantize(weight, hessian)
    for block in (16, 48):
        monkeypatch.setattr(trellis, "BLOCK", block)
        parts = Trellis(TrellisTier(bits=2)).quantize(weight, hessian)
        same = (parts.buffers["codes"] == whole.buffers["codes"]).float().mean()
        assert same > 0.95, "rounding apart, the same codes"
        assert objective(weight, parts, hessian) == pytest.approx(
            objective(weight, whole, hessian), rel=0.02
        )


def strips(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_a_strips_scale_has_the_least_error_for_its_codes() -> None:
    target, values, metric = strips(48, 32, 0), strips(48, 32, 1), correlated(200, 32)
    values = target + 0.5 * values
    values[16:32] = 0
    start = torch.tensor([3.0, 5.0, 7.0])
    scale, error = trellis.best_scales(target, values, metric, start)
    assert float(scale[1]) == 5.0, "a strip of nothing keeps its scale"
    assert torch.equal(scale, scale.half().float())

    def whole(scales: torch.Tensor) -> float:
        return loss(target, values * scales.repeat_interleave(16)[:, None], metric)

    nothing = loss(target, torch.zeros_like(target), metric)
    assert error == pytest.approx(whole(scale) - nothing, rel=1e-4)
    for strip in (0, 2):
        for factor in (0.98, 1.02):
            other = scale.clone()
            other[strip] *= factor
            assert whole(other) > whole(scale)


@pytest.mark.parametrize("seed", range(3))
def test_the_spread_with_the_least_error_is_taken(seed: int) -> None:
    weight, hessian = strips(32, 64, seed), correlated(300, 64, seed=seed)
    errors = {}
    for factor in (0.9, 1.0, 1.1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trellis, "TRIED", (factor,))
            packed = Trellis(TrellisTier(bits=1)).quantize(weight, hessian)
        errors[factor] = objective(weight, packed, hessian)
    best = Trellis(TrellisTier(bits=1)).quantize(weight, hessian)
    assert objective(weight, best, hessian) == pytest.approx(min(errors.values()), rel=1e-6)
    assert min(errors.values()) < 0.999 * max(errors.values())


def test_the_spread_of_a_strip_is_that_of_its_own_weights() -> None:
    """Rows and columns that fill it up do not count."""
    target = strips(20, 40, 0) * 3
    padded = torch.nn.functional.pad(target, (0, 8, 0, 12))
    spread = trellis._spreads(padded, 20, 40)
    assert float(spread[0]) == pytest.approx(float(target[:16].square().mean().sqrt()))
    assert float(spread[1]) == pytest.approx(float(target[16:].square().mean().sqrt()))


@pytest.mark.parametrize("exponent", [-12, 12])
def test_large_and_small_weights_have_the_same_codes(exponent: int) -> None:
    weight, hessian = strips(32, 48, 0), correlated(200, 48)
    packed = Trellis(TrellisTier(bits=2, window=8)).quantize(weight, hessian)
    scaled = Trellis(TrellisTier(bits=2, window=8)).quantize(weight * 2.0**exponent, hessian)
    assert torch.equal(scaled.buffers["codes"], packed.buffers["codes"])
    ratio = scaled.buffers["scales"].float() / packed.buffers["scales"].float()
    assert torch.allclose(ratio, torch.full_like(ratio, 2.0**exponent), rtol=2e-3)


@pytest.mark.parametrize("gain", [0.85, 1.2])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_no_other_gain_is_much_better_on_gaussian_weights(
    bits: int, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = strips(128, 128, 3)
    error = objective(weight, Trellis(TrellisTier(bits=bits)).quantize(weight, EYE), EYE)
    monkeypatch.setattr(trellis, "TRIED", (1.0,))
    monkeypatch.setitem(trellis.GAIN, bits, trellis.GAIN[bits] * gain)
    changed = objective(weight, Trellis(TrellisTier(bits=bits)).quantize(weight, EYE), EYE)
    assert error < 0.99 * changed


EYE = torch.eye(128)


def test_columns_that_fill_up_tiles_count_as_much_as_the_others_do() -> None:
    hessian = correlated(200, 20)
    metric, factor = Trellis(TrellisTier())._rotate(hessian)
    diagonal = torch.diagonal(metric)
    assert metric.shape == (32, 32)
    assert torch.allclose(diagonal[20:], torch.diagonal(hessian).mean())
    assert not bool((metric - torch.diag(diagonal))[20:].any())
    assert factor.upper.shape == (32, 32)


def test_a_weight_of_33_strips_is_encoded_as_a_whole() -> None:
    """Of more than 32 strips every second chooses the spread."""
    weight, hessian = strips(16 * 33, 16, 0), correlated(100, 16)
    packed = Trellis(TrellisTier(bits=2, window=6)).quantize(weight, hessian)
    assert packed.buffers["codes"].shape[0] == 33
    assert objective(weight, packed, hessian) < 0.3 * objective_of_nothing(weight, hessian)


def objective_of_nothing(weight: torch.Tensor, hessian: torch.Tensor) -> float:
    return loss(weight, torch.zeros_like(weight), hessian)
