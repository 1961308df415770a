"""Packed layers in folders, made with a walk and no store."""

from collections.abc import Sequence
from pathlib import Path

from luq.calibration.samples import CalibrationSet
from luq.config import LayerTiers, TierConfig
from luq.formats.layer_file import write_layer
from luq.models.vlm import VLM
from luq.quantization.layer import quantize_layer
from luq.quantization.walk import Walk


def pack(
    vlm: VLM,
    samples: CalibrationSet,
    root: Path,
    tiers: Sequence[TierConfig],
    exact: bool = False,
) -> list[Path]:
    """A folder per layer; `exact`: each is quantized for what the packed ones before it give."""
    walk = Walk(vlm, samples)
    folders: list[Path] = []
    for index, tier in enumerate(tiers):
        states = None
        if not tier.data_free:
            states = walk.inputs(index, folders if exact else [])
        folder = root / f"{index}-{tier.method}-{abs(hash(tier))}"
        folder.mkdir(parents=True)
        write_layer(folder, quantize_layer(vlm, index, LayerTiers(tier), states))
        folders.append(folder)
    return folders
