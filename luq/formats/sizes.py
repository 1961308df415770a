"""How large things are, as plain numbers: a layer's file, and an allocation's four memory numbers.

Nominal bits: code bits per weight, the paper's convention. Stored bits: 8 * bytes of the packed
files / weights, scales and masks and headers and all. Resident bytes: what the packed buffers take
in memory. Peak bytes: the process's largest memory up to now (CPU: resident set; CUDA: allocated).
Needs no torch: records and the analysis read it.
"""

from dataclasses import dataclass

BYTES_16_BIT = 2


@dataclass(frozen=True)
class LayerSize:
    """What one layer's file holds. `ledger` is bytes per tensor class and sums to `bytes`."""

    weights: int
    bytes: int
    nominal_bits: float
    ledger: dict[str, int]


@dataclass(frozen=True)
class Memory:
    """Sizes of one allocation's decoder linears and of the whole checkpoint they belong to.

    `stored_bytes` is the sum of the layer files' sizes. `rest_bytes` is all else (embeddings, head,
    vision, projector, norms), as it is stored, and `checkpoint_bytes` the sum of both.
    `ledger` is bytes per tensor class and sums to `checkpoint_bytes`.
    """

    weights: int
    nominal_bits: float
    stored_bits: float
    stored_bytes: int
    rest_bytes: int
    checkpoint_bytes: int
    resident_bytes: int
    peak_bytes: int
    ledger: dict[str, int]
    # What all but the linears takes in 16 bit. None in records of versions that packed none of it.
    rest_16_bit_bytes: int | None = None

    @property
    def float_rest_bytes(self) -> int:
        """What all but the linears takes in 16 bit."""
        return self.rest_bytes if self.rest_16_bit_bytes is None else self.rest_16_bit_bytes


def rest_ledger(rest: dict[str, int], parts: dict[str, LayerSize]) -> dict[str, int]:
    """Bytes of all that is no decoder linear, with some parts packed.

    Args:
        rest: bytes of it in 16 bit, by part.
        parts: what the files of packed parts hold.

    Returns:
        Bytes of what stays 16-bit by part, and of packed parts by part and tensor class
        (`vision codes`).
    """
    ledger = dict(rest)
    for part, size in parts.items():
        ledger[part] -= BYTES_16_BIT * size.weights
        if not ledger[part]:
            del ledger[part]
        for name, count in size.ledger.items():
            ledger[f"{part} {name}"] = count
    return ledger


def memory(
    layers: list[LayerSize],
    rest: dict[str, int],
    peak_bytes: int,
    parts: dict[str, LayerSize] | None = None,
) -> Memory:
    """The memory numbers of an allocation.

    Args:
        layers: what its layers' files hold.
        rest: bytes of all else in 16 bit, by part.
        peak_bytes: the process's largest memory.
        parts: what the files of packed parts of the rest hold.
    """
    float_rest_bytes = sum(rest.values())
    stored_rest = rest_ledger(rest, parts or {})
    ledger: dict[str, int] = {}
    for layer in layers:
        for name, count in layer.ledger.items():
            ledger[name] = ledger.get(name, 0) + count
    weights = sum(layer.weights for layer in layers)
    stored = sum(layer.bytes for layer in layers)
    rest_bytes = sum(stored_rest.values())
    return Memory(
        weights=weights,
        nominal_bits=sum(layer.nominal_bits * layer.weights for layer in layers) / weights,
        stored_bits=8 * stored / weights,
        stored_bytes=stored,
        rest_bytes=rest_bytes,
        checkpoint_bytes=stored + rest_bytes,
        resident_bytes=stored - ledger["header"],
        peak_bytes=peak_bytes,
        ledger=ledger | stored_rest,
        rest_16_bit_bytes=float_rest_bytes,
    )
