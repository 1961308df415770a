import pytest
import torch

from luq.errors import StoreError
from luq.formats.incoherence import unrotate
from luq.formats.trellis import (
    TrellisWeight,
    from_tiles,
    pack_stream,
    states_of,
    table,
    to_tiles,
    unpack_stream,
)
from tests.luq.formats.weights import GENERATOR, coded


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
            recent = stream_bits[max(0, (t + 1) * bits - window) : (t + 1) * bits]
            state = int("".join(map(str, recent)), 2)
            tile, inside = divmod(t, 256)
            value = numbers[state] * weight.buffers["scales"][strip].float()
            rotated[16 * strip + inside // 16, 16 * tile + inside % 16] = value
    transposed = unrotate(rotated[:rows, :columns], seed).T.contiguous()
    return unrotate(transposed, seed + 1).T


@pytest.mark.parametrize(("bits", "window"), [(1, 1), (1, 9), (2, 12), (3, 8), (4, 16)])
@pytest.mark.parametrize("shape", [(32, 48), (5, 40), (17, 16)])
def test_the_format_is_what_it_says(bits: int, window: int, shape: tuple[int, int]) -> None:
    weight = coded(*shape, bits, window)
    assert torch.equal(weight.dequantize(), decode(weight))
    assert weight.nominal_bits == bits
    assert torch.equal(weight.table, table(window))


def test_ledger_classes() -> None:
    assert coded(17, 40, 3).ledger() == {"codes": 2 * 48 * 16 * 3 // 8, "scales": 4}


def test_a_window_is_not_narrower_than_a_code() -> None:
    weight = coded(16, 16, 3)
    with pytest.raises(StoreError, match=r"'window' must be a whole number in \[3, 16\]"):
        TrellisWeight(weight.buffers, weight.shape, **{**weight.meta, "window": 2})


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_streams_are_highest_bit_first_and_come_back(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (3, 256), generator=GENERATOR).to(torch.uint8)
    stream = pack_stream(codes, bits)
    assert stream.shape == (3, 32 * bits)
    assert torch.equal(unpack_stream(stream, bits).to(torch.uint8), codes)
    written = "".join(format(int(code), f"0{bits}b") for code in codes[0])
    assert "".join(format(int(byte), "08b") for byte in stream[0]) == written


def test_tiles_are_read_row_after_row_and_come_back() -> None:
    weight = torch.arange(32 * 48.0).view(32, 48)
    tiles = to_tiles(weight)
    assert tiles.shape == (2, 3 * 256)
    assert tiles[0, :17].tolist() == [*range(16), 48]
    assert tiles[0, 256] == 16
    assert tiles[1, 0] == 16 * 48
    assert torch.equal(from_tiles(tiles), weight)


def test_states_go_on_from_those_before() -> None:
    codes = torch.tensor([[1, 2, 3]], dtype=torch.uint8)
    before = torch.tensor([0b1101], dtype=torch.int32)
    assert states_of(codes, before, 2, 4).tolist() == [[0b0101, 0b0110, 0b1011]]
    assert states_of(codes, before, 2, 5).tolist() == [[0b10101, 0b10110, 0b11011]]


@pytest.mark.parametrize(
    ("window", "first"),
    [
        (5, [-2.154296875, 0.724609375, 0.1177978515625, -0.445068359375]),
        (12, [-3.66796875, 0.630859375, -0.1893310546875, -0.05419921875]),
    ],
)
def test_the_table_never_changes(window: int, first: list[float]) -> None:
    """Files depend on it."""
    numbers = table(window)
    assert numbers[:4].tolist() == first
    ranks = torch.arange(2**window) + 0.5
    quantiles = torch.special.ndtri(ranks.double() / 2**window).half().float()
    assert torch.equal(numbers.sort().values, quantiles)
