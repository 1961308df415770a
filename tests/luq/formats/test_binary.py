import pytest
import torch

from luq.errors import StoreError
from luq.formats.binary import BinaryWeight
from luq.formats.packing import pack_bits
from tests.luq.formats.weights import binaries, bit, damaged, sign


def slow_numbers(weight: BinaryWeight, row: int, block: int) -> list[torch.Tensor]:
    """Mean and scale of the four parts."""
    stored = weight.buffers["scales"][row, block]
    if "tops" not in weight.buffers:
        return list(stored.float())
    tops = weight.buffers["tops"][row // 32, block].float()
    numbers = [torch.tensor(0.0)] * 8
    for place, number in enumerate((0, 1, 2, 3, 4, 5, 7)):
        is_mean = number in (0, 2, 4)
        zero, limit = (128, 127) if is_mean else (0, 255)
        numbers[number] = (stored[place].float() - zero) * (tops[place] / limit)
    return numbers


def decode(weight: BinaryWeight) -> torch.Tensor:
    """The format as its documentation says it, bit by bit."""
    rows, columns = weight.shape
    b = weight.buffers
    salient = [bit(b["salient"], column) for column in range(columns)]
    count = sum(salient)
    decoded = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            numbers = slow_numbers(weight, row, column // weight.meta["block"])
            first_sign = sign(b["signs"], row * columns + column)
            salient_before = sum(salient[:column])
            if salient[column]:
                second_sign = sign(b["residual_signs"], row * count + salient_before)
                value = numbers[4] + numbers[5] * first_sign + numbers[6] + numbers[7] * second_sign
            else:
                place = row * (columns - count) + column - salient_before
                part = 2 * bit(b["flags"], place)
                value = numbers[part] + numbers[part + 1] * first_sign
            decoded[row, column] = value
    return decoded


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "block", "share"), [(40, 20, 8, 0.3), (3, 13, 13, 1.0), (9, 16, 4, 0.0)]
)
def test_the_format_is_what_it_says(
    rows: int, columns: int, block: int, share: float, twice: bool
) -> None:
    weight = binaries(rows, columns, block, share, twice)
    assert torch.equal(weight.dequantize(), decode(weight))
    salient = sum(bit(weight.buffers["salient"], column) for column in range(columns))
    assert weight.nominal_bits == 1 + salient / columns


def test_quantized_numbers_use_the_bytes_whole_range() -> None:
    numbers = torch.zeros(33, 1, 8)
    numbers[0, 0] = torch.tensor([-1.0, 1, 1, 0.4, 2, 2, 0, 2])
    numbers[1, 0] = torch.tensor([1.0, 0, 0, 1.0, -2, 0.8, 0, 0.4])
    buffers = BinaryWeight.quantize_numbers(numbers)
    assert buffers["scales"][0, 0].tolist() == [1, 255, 255, 102, 255, 255, 255]
    assert buffers["scales"][1, 0].tolist() == [255, 0, 128, 255, 1, 102, 51]
    assert buffers["scales"][32, 0].tolist() == [128, 0, 128, 0, 128, 0, 0]
    assert buffers["tops"][:, 0].tolist() == [[1, 1, 1, 1, 2, 2, 2], [0] * 7]


def test_ledger_classes() -> None:
    weight = binaries(8, 16, 16, 0.0, twice=True)
    assert weight.ledger() == {"codes": 16, "masks": 2 + 16, "scales": 8 * 7 + 7 * 2}


def test_marks_that_contradict_the_sizes_are_refused() -> None:
    weight = binaries(9, 20, 8, 0.3)
    weight.check_content()
    marks = pack_bits(torch.arange(20) < 19)
    contradicting = damaged(weight, "salient", marks)
    with pytest.raises(StoreError, match="the 19 columns that buffer 'salient' marks"):
        contradicting.check_content()


def test_masks_must_be_those_of_one_number_of_columns() -> None:
    for rows in (3, 9, 16):
        weight = binaries(rows, 20, 8, 0.3)
        flags = weight.buffers["flags"]
        for other in (flags[:-2], torch.cat([flags, flags[:2]])):
            with pytest.raises(StoreError, match="some number of salient columns"):
                damaged(weight, "flags", other)
        with pytest.raises(StoreError, match="some number of salient columns"):
            damaged(weight, "residual_signs", torch.zeros(99, dtype=torch.uint8))


def test_few_rows_are_left_to_torch() -> None:
    """Fewer than eight bits of a column do not say how many columns are salient."""
    assert binaries(7, 128, 128, 0.3).cpu_kernel() is None
