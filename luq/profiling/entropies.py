"""What a profile says of one layer, as plain numbers. Needs no torch: records read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerEntropy:
    """One layer's entropy over one modality: mean and standard deviation over seeds, in bits."""

    layer: int
    modality: str  # all, image or text
    mean: float
    spread: float
    tokens: int  # output vectors that were clustered
    clusters: int  # K that was used
