"""The parts beside the decoder's linears in tiers, as artefacts.

They are packed for what the 16-bit model gives them, and the decoder's layers for what the 16-bit
parts give: neither depends on the other, so that all allocations share a part, and all parts a
layer. What is scored, stored and exported has both.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from luq.calibration.artefacts import Calibration, samples_of
from luq.config import TierConfig
from luq.config.checks import VOLATILE
from luq.models.checkpoint import Checkpoint
from luq.quantization.artefacts import LayerFolder
from luq.store.artefact import Artefact, Tools


@dataclass(frozen=True, eq=False, repr=False)
class PackedPart(Artefact[LayerFolder]):
    """Embeddings, head, vision tower or projector in one tier.

    `before` are the packed parts that the calibration images went through on their way to this
    one. A tier that needs no data has neither calibration nor parts before it.
    """

    stage: ClassVar[str] = "parts"
    version: ClassVar[int] = 1
    checkpoint: Checkpoint
    part: str
    tier: TierConfig
    calibration: Calibration | None = None
    before: "tuple[PackedPart, ...]" = ()
    name: str = field(default="", metadata=VOLATILE)  # of the tier, for people

    @property
    def description(self) -> str:
        return f"{self.part} in {self.name or self.tier.method}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.formats.layer_file import write_layer
        from luq.models.vlm import loaded
        from luq.quantization.rest import install_parts, quantize_part

        if self.calibration is None:
            vlm = loaded(tools, self.checkpoint)
            vlm.restore()
            samples = None
        else:
            vlm = loaded(tools, self.calibration.checkpoint)
            samples = samples_of(self.calibration, tools)
            vlm.restore()
            install_parts(vlm, folders_of(self.before, tools))
        packed = quantize_part(vlm, self.part, self.tier, samples, tools.store.root)
        write_layer(folder, packed)

    def read(self, folder: Path) -> LayerFolder:
        return LayerFolder(folder)


Parts = tuple[PackedPart, ...]


def folders_of(parts: Parts, tools: Tools) -> dict[str, Path]:
    """Where packed parts lie, by part."""
    return {part.part: tools.store.get(part).folder for part in parts}
