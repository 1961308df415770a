"""How large things are, as plain numbers: a layer's file, and an allocation's four memory numbers.

Nominal bits: code bits per weight, the paper's convention. Stored bits: 8 * bytes of the packed
files / weights, scales and masks and headers and all. Resident bytes: what the packed buffers take
in memory. Peak bytes: the process's largest memory up to now (CPU: resident set; CUDA: allocated).
Needs no torch: records and the analysis read it.
"""

from dataclasses import dataclass


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

    `stored_bytes` is the sum of the layer files' sizes. `rest_bytes` is what stays 16-bit
    (embeddings, head, vision, projector, norms), and `checkpoint_bytes` the sum of both.
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
