import hashlib
import math
from typing import NamedTuple

import pytest
import torch

from luq.errors import StoreError
from luq.formats.incoherence import BLOCKS, OVERLAPPING, unrotate
from luq.formats.kernels import cpu
from luq.formats.layer_file import read_layer, write_layer
from luq.formats.trellis import (
    TrellisWeight,
    all_numbers,
    computed_numbers,
    from_tiles,
    states_of,
    stream_of,
    table,
    to_tiles,
)
from tests.luq.formats.weights import GENERATOR, coded, copies

BITS = [1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.75, 4.0]


def number(state: int) -> float:
    """What a state stands for, as the format's documentation says it."""
    mixed = (0x3A43AB75 * state + 0x3A897E77) % 2**32
    return (sum(mixed.to_bytes(4, "little")) - 510) / 128


def decode(weight: TrellisWeight) -> torch.Tensor:
    """The format as its documentation says it, bit by bit."""
    rows, columns = weight.shape
    bits, window, seed = (weight.meta[name] for name in ("bits", "window", "seed"))
    padded_columns = -(-columns // 16) * 16
    numbers = table(window)
    rotated = torch.zeros(-(-rows // 16) * 16, padded_columns)
    for strip, stream in enumerate(weight.buffers["codes"]):
        stream_bits = []
        for byte in stream:
            stream_bits += [int(byte) >> place & 1 for place in range(7, -1, -1)]
        for t in range(16 * padded_columns):
            end = math.floor((t + 1) * bits)
            recent = stream_bits[max(0, end - window) : end]
            state = int("".join(map(str, recent)), 2)
            tile, inside = divmod(t, 256)
            value = number(state) if "code" in weight.meta else numbers[state]
            value = value * weight.buffers["scales"][strip].float()
            rotated[16 * strip + inside // 16, 16 * tile + inside % 16] = value
    rotation = weight.meta.get("rotation", 1)
    transposed = unrotate(rotated[:rows, :columns], seed, rotation).T.contiguous()
    return unrotate(transposed, seed + 1, rotation).T


@pytest.mark.parametrize(
    ("bits", "window"),
    [(1, 1), (1, 9), (2, 12), (3, 8), (4, 16), (1.25, 2), (1.5, 12), (1.75, 16), (3.5, 12)],
)
@pytest.mark.parametrize("shape", [(32, 48), (5, 40), (17, 16)])
def test_the_format_is_what_it_says(bits: int | float, window: int, shape: tuple[int, int]) -> None:
    weight = coded(*shape, bits, window)
    assert torch.equal(weight.dequantize(), decode(weight))
    assert weight.nominal_bits == bits


@pytest.mark.parametrize("shape", [(5, 40), (16, 23), (21, 64), (48, 96)])
def test_overlapping_rotations_are_what_they_say(shape: tuple[int, int]) -> None:
    weight = coded(*shape, 2, rotation=OVERLAPPING)
    assert torch.equal(weight.dequantize(), decode(weight))
    assert torch.equal(weight.rows(torch.tensor([3, 0])), decode(weight)[[3, 0]])
    blocks = coded_again(weight, rotation=BLOCKS)
    assert torch.equal(blocks.dequantize(), coded_again(weight).dequantize())
    assert not torch.equal(blocks.dequantize(), weight.dequantize())


def coded_again(weight: TrellisWeight, **rotation: int) -> TrellisWeight:
    """The same codes with another word for the rotation, or none."""
    meta = {name: value for name, value in weight.meta.items() if name != "rotation"}
    return TrellisWeight(weight.buffers, weight.shape, **meta, **rotation)


@pytest.mark.parametrize("shape", [(64, 128), (1, 32), (16, 8)])
def test_powers_of_two_have_one_rotation(shape: tuple[int, int]) -> None:
    weight = coded(*shape, 2, rotation=OVERLAPPING)
    assert torch.equal(weight.dequantize(), coded_again(weight).dequantize())


@pytest.mark.parametrize("rotation", [0, 3, 2.0, "2", None, True])
def test_an_unknown_rotation_is_refused(rotation: object) -> None:
    weight = coded(16, 24, 2)
    with pytest.raises(StoreError, match=r"'rotation' must be a whole number in \[1, 2\]"):
        TrellisWeight(weight.buffers, weight.shape, **weight.meta, rotation=rotation)


@pytest.mark.parametrize(("bits", "window"), [(1, 9), (2, 12), (4, 16)])
def test_version_1_is_what_it_was(bits: int, window: int) -> None:
    weight = coded(17, 40, bits, window, code=None)
    assert torch.equal(weight.dequantize(), decode(weight))
    said = TrellisWeight(weight.buffers, weight.shape, **weight.meta, code=1)
    assert torch.equal(said.dequantize(), weight.dequantize())


class Golden(NamedTuple):
    """A weight that an encoder wrote, and what it decoded to."""

    bits: int | float
    window: int
    shape: tuple[int, int]
    codes: str
    scales: str
    digest: str  # SHA-256 of the fp32 numbers
    marks: dict[str, int] = {}  # noqa: RUF012  # what meta says since; version 1 said nothing


GOLDEN = [
    Golden(
        bits=1,
        window=12,
        shape=(5, 40),
        codes=(
            "a4921c29c1e6f75c532"
            + "a" * 40
            + "bd1c16b1936a1a0ddd3ca6e"
            + "a" * 43
            + "f4747ed5552dcfd9d039"
            + "5" * 47
        ),
        scales="6937",
        digest="91c667cae433ddd8ab41a957c9e27f0eaa2f94f30345527827c1dda7c6afb77a",
    ),
    Golden(
        bits=2,
        window=12,
        shape=(17, 16),
        codes=(
            "7bd2982ad3a2f72cd58df47d026cb203b8204624cae1266d4a313205d64e27aaa24524ea"
            + "43369b2a1713fee909c4e4553291f0ee2d3ec1f1b4003bf782eed6aed4a5b9"
            + "5" * 122
        ),
        scales="3339e839",
        digest="fcbc326dfde70b9ba48ef9f6763747ce524bd63c8872614ecb3a3af27bee6e77",
    ),
    Golden(
        bits=1.25,
        window=12,
        shape=(3, 12),
        codes="5100d55785012" + "0481204812" * 6 + "0481204",
        scales="7538",
        digest="0367d0f10d5950cc05f83cbe44925a5473466cbdfacad005eb8cbc808a6e72ea",
        marks={"code": 2, "rotation": 2},
    ),
]  # fmt: skip


@pytest.mark.parametrize("golden", GOLDEN, ids=["1 bit", "2 bits", "overlapping"])
def test_files_give_the_numbers_that_they_gave(golden: Golden, tmp_path) -> None:
    strips = -(-golden.shape[0] // 16)
    codes = torch.tensor(list(bytes.fromhex(golden.codes)), dtype=torch.uint8)
    scales = torch.tensor(list(bytes.fromhex(golden.scales)), dtype=torch.uint8)
    buffers = {"codes": codes.view(strips, -1), "scales": scales.view(torch.float16)}
    meta = {"bits": golden.bits, "window": golden.window, "seed": 1, "damping": 0.01}
    meta |= golden.marks
    weight = TrellisWeight(buffers, golden.shape, **meta)
    write_layer(tmp_path, copies(weight))
    for stored in read_layer(tmp_path).values():
        assert stored.meta == meta
        kernel = stored.cpu_kernel()
        assert (kernel is None) == (cpu.library() is None)
        answers = [stored.dequantize()]
        if kernel is not None:
            answers.append(kernel.unpack(torch.float32))
        for answer in answers:
            assert hashlib.sha256(answer.numpy().tobytes()).hexdigest() == golden.digest


def test_numbers_are_nearly_gaussian_and_exact() -> None:
    states = torch.arange(2**16)
    numbers = computed_numbers(states)
    assert numbers[:300].tolist() == [number(state) for state in range(300)]
    assert torch.equal(all_numbers(12), numbers[: 2**12])
    assert float(numbers.mean()) == pytest.approx(0, abs=0.01)
    assert float(numbers.square().mean()) == pytest.approx(4 / 3, rel=0.01)
    kurtosis = numbers.pow(4).mean() / numbers.square().mean() ** 2
    assert float(kurtosis) == pytest.approx(3 - 1.2 / 4, abs=0.05)  # of a sum of four uniform ones
    assert torch.equal(numbers.half().float(), numbers)


def test_ledger_classes() -> None:
    assert coded(17, 40, 3).ledger() == {"codes": 2 * 48 * 16 * 3 // 8, "scales": 4}
    assert coded(17, 40, 1.25).ledger() == {"codes": 2 * 48 * 20 // 8, "scales": 4}


def test_a_window_is_not_narrower_than_a_code() -> None:
    weight = coded(16, 16, 2.5)
    with pytest.raises(StoreError, match=r"'window' must be a whole number in \[3, 16\]"):
        TrellisWeight(weight.buffers, weight.shape, **{**weight.meta, "window": 2})


@pytest.mark.parametrize("bits", [0.75, 1.1, 4.25, float("nan"), float("inf"), 1e300, 2.0])
def test_bits_are_whole_or_quarters(bits: float) -> None:
    weight = coded(16, 16, 1.5)
    with pytest.raises(StoreError, match="'bits' must be a"):
        TrellisWeight(weight.buffers, weight.shape, **{**weight.meta, "bits": bits})


def test_version_1_has_whole_bits() -> None:
    with pytest.raises(StoreError, match="'bits' must be a whole number"):
        coded(16, 16, 1.5, code=None)


@pytest.mark.parametrize("code", [0, 3, 2.0, "2", None, True])
def test_a_code_of_another_version_is_refused(code: object) -> None:
    weight = coded(16, 16, 2)
    with pytest.raises(StoreError, match=r"'code' must be a whole number in \[1, 2\]"):
        TrellisWeight(weight.buffers, weight.shape, **{**weight.meta, "code": code})


@pytest.mark.parametrize("bits", BITS)
def test_streams_come_back(bits: float) -> None:
    stream = torch.randint(0, 256, (3, int(32 * bits)), generator=GENERATOR).to(torch.uint8)
    states = states_of(stream, bits, 12)
    assert states.shape == (3, 256)
    assert torch.equal(stream_of(states, bits), stream)


def test_streams_are_highest_bit_first() -> None:
    stream = torch.tensor([[0b10110001, 0b01000000, 0, 0, 0]], dtype=torch.uint8)
    two_bits = [0b10, 0b1011, 0b1100, 0b0001, 0b0101]
    assert states_of(stream, 2.0, 4)[0, :5].tolist() == two_bits
    # codes of 1, 1, 1 and 2 bits
    five_quarters = [0b1, 0b10, 0b101, 0b0110, 0b1100, 0b1000, 0b0001, 0b0101]
    assert states_of(stream, 1.25, 4)[0, :8].tolist() == five_quarters


def test_tiles_are_read_row_after_row_and_come_back() -> None:
    weight = torch.arange(32 * 48.0).view(32, 48)
    tiles = to_tiles(weight)
    assert tiles.shape == (2, 3 * 256)
    assert tiles[0, :17].tolist() == [*range(16), 48]
    assert tiles[0, 256] == 16
    assert tiles[1, 0] == 16 * 48
    assert torch.equal(from_tiles(tiles), weight)


@pytest.mark.parametrize(
    ("window", "first"),
    [
        (5, [-2.154296875, 0.724609375, 0.1177978515625, -0.445068359375]),
        (12, [-3.66796875, 0.630859375, -0.1893310546875, -0.05419921875]),
    ],
)
def test_the_table_never_changes(window: int, first: list[float]) -> None:
    """Files of format version 1 depend on it."""
    numbers = table(window)
    assert numbers[:4].tolist() == first
    ranks = torch.arange(2**window) + 0.5
    quantiles = torch.special.ndtri(ranks.double() / 2**window).half().float()
    assert torch.equal(numbers.sort().values, quantiles)
