"""Mutated packed weights: what a damaged or hostile folder can hold. Run by `test_fuzz.py`.

`python -m tests.luq.formats.fuzz SEED COUNT` mutates weights of every format and lets all that is
not refused be decoded and multiplied, in torch and in the compiled kernels. Prints how many were
refused and how many answered; anything but an error of ours ends it with a traceback or a signal.
"""

import random
import sys
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luq.errors import LuqError
from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.known import restore
from tests.luq.formats import weights

NUMBERS: list[Any] = [
    -(2**63), -(2**31), -128, -1, 0, 1, 2, 3, 7, 8, 16, 17, 64, 127, 128, 2**16, 2**31 - 1, 2**31,
    2**63 - 1, 2**64, 1.0, 2.5, float("nan"), float("inf"), True, None, "8", [8], {},
]  # fmt: skip
DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
]


class Parts(NamedTuple):
    """What a weight is made of."""

    format: str
    buffers: dict[str, Tensor]
    shape: tuple[Any, Any]
    meta: dict[str, Any]


def samples() -> list[PackedWeight]:
    """Weights of every format, whole and ragged."""
    return [
        weights.floats(5, 24),
        weights.integers(6, 64, 4, 2, symmetric=True),
        weights.integers(3, 100, 3, 2, symmetric=False, size=64),
        weights.integers(9, 96, 2, 3, symmetric=False),
        weights.ternaries(7, 64, 2),
        weights.ternaries(4, 70, 3, size=32),
        weights.binaries(8, 64, 32, 0.2),
        weights.binaries(16, 70, 32, 0.3, twice=True),
        weights.row_columns(8, 70, 32, 0.2),
        weights.coded(20, 40, 2),
        weights.coded(16, 32, 3),
        weights.coded(24, 40, 1.5, rotation=2),
    ]


def parts_of(weight: PackedWeight) -> Parts:
    buffers = {name: buffer.clone() for name, buffer in weight.buffers.items()}
    return Parts(weight.format, buffers, weight.shape, dict(weight.meta))


def _other_buffer(rng: random.Random, buffer: Tensor) -> Tensor:
    """A buffer of another shape, type or content."""
    flat = buffer.reshape(-1)
    choice = rng.randrange(12)
    if choice == 0:
        return flat[: rng.randrange(len(flat) + 1)].clone()
    if choice == 1:
        return torch.cat([flat, flat])
    if choice == 2:
        return buffer.unsqueeze(rng.randrange(buffer.dim() + 1))
    if choice == 3:
        return buffer.T.contiguous() if buffer.dim() == 2 else flat.reshape(1, -1)
    if choice == 4:
        return torch.zeros(rng.choice([(0,), (1,), (4, 1), (0, 8), (1, 1, 1)]), dtype=buffer.dtype)
    if choice == 5:
        return buffer.to(rng.choice(DTYPES))
    if choice == 6:
        return buffer.repeat_interleave(2, dim=buffer.dim() - 1)[..., ::2]  # not contiguous
    if not buffer.nbytes:
        return buffer
    noise = torch.frombuffer(bytearray(rng.randbytes(buffer.nbytes)), dtype=torch.uint8)
    return noise.view(buffer.dtype).reshape(buffer.shape)


def mutated(rng: random.Random, parts: Parts) -> Parts:
    """One or two changes of the parts of a weight."""
    buffers, meta, shape = dict(parts.buffers), dict(parts.meta), list(parts.shape)
    for _ in range(rng.randint(1, 2)):
        choice = rng.randrange(6)
        name = rng.choice([*buffers, "codes"])
        if choice <= 1 and name in buffers:
            buffers[name] = _other_buffer(rng, buffers[name])
        elif choice == 2:
            meta[rng.choice([*meta, "block", "bits", "group_size", "rotation", "window", "x"])] = (
                rng.choice(NUMBERS)
            )
        elif choice == 3:
            shape[rng.randrange(2)] = rng.choice([*NUMBERS, *parts.shape, parts.shape[0] + 1])
        elif choice == 4 and len(buffers) > 1:
            buffers.pop(name, None)
        elif choice == 5:
            buffers[rng.choice(["scales", "zeros", "extra"])] = torch.zeros(
                4, dtype=rng.choice(DTYPES)
            )
    format_name = parts.format if rng.random() < 0.95 else rng.choice(["trellis", "integer", "x"])
    return Parts(format_name, buffers, (shape[0], shape[1]), meta)


def use(weight: PackedWeight, rng: random.Random) -> None:
    """All that is done with a weight on a CPU."""
    columns = weight.shape[1]
    for tokens in (1, rng.randint(2, 5)):
        kernels.linear(torch.randn(tokens, columns), weight)
    kernels.unpack(weight, torch.float32)
    weight.dequantize()
    weight.ledger()


def campaign(seed: int, count: int) -> Counter[str]:
    """How many mutated weights were refused, and how many answered."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    originals = [parts_of(weight) for weight in samples()]
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        parts = mutated(rng, rng.choice(originals))
        try:
            weight = restore(parts.format, parts.buffers, parts.shape, **parts.meta)
            weight.check_content()
            use(weight, rng)
            outcomes["answered"] += 1
        except LuqError:
            outcomes["refused"] += 1
    return outcomes


if __name__ == "__main__":
    told = campaign(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(f"{told['refused']} refused, {told['answered']} answered\n")
