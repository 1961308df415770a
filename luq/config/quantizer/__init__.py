"""How layers are stored: the table of tiers, the two tiers of a run, and what feeds the next layer.

A new method is a dataclass here (a file), one entry in `TIERS`, and its quantizer in
`luq.quantization.methods`.
"""

from dataclasses import dataclass, field

from luq.config.checks import require, require_between
from luq.config.quantizer.arb_rc import ArbRcTier
from luq.config.quantizer.base import TierConfig
from luq.config.quantizer.billm import BillmTier
from luq.config.quantizer.float16 import Float16Tier
from luq.config.quantizer.gguf import GgufTier
from luq.config.quantizer.gptq import GptqTier
from luq.config.quantizer.layer_tiers import LayerTiers
from luq.config.quantizer.own import OwnTier
from luq.config.quantizer.refine import RefineConfig
from luq.config.quantizer.rtn import RtnTier
from luq.config.quantizer.ternary import TernaryTier
from luq.config.quantizer.trellis import TrellisTier
from luq.errors import unknown

__all__ = [
    "EMBEDDINGS",
    "HEAD",
    "PARTS",
    "PROJECTOR",
    "PROPAGATIONS",
    "TIERS",
    "TOKEN_WEIGHTS",
    "VISION",
    "ArbRcTier",
    "BillmTier",
    "Float16Tier",
    "GgufTier",
    "GptqTier",
    "LayerTiers",
    "OwnTier",
    "QuantizerConfig",
    "RefineConfig",
    "RtnTier",
    "TernaryTier",
    "TierConfig",
    "TrellisTier",
]

HELD_OUT = (0.01, 0.5)  # least and largest share of batches that can be held out
PROPAGATIONS = ("exact", "high", "float")
TOKEN_WEIGHTS = ("count", "gradient", "modality")
# Parts of a model beside its decoder's linears that a tier can be given to.
PARTS = EMBEDDINGS, HEAD, VISION, PROJECTOR = ("embeddings", "head", "vision", "projector")

TIERS: dict[str, type[TierConfig]] = {
    tier.method: tier
    for tier in (
        Float16Tier,
        RtnTier,
        GptqTier,
        TernaryTier,
        ArbRcTier,
        BillmTier,
        TrellisTier,
        GgufTier,
    )
}


@dataclass(frozen=True)
class QuantizerConfig:
    """The two tiers of a run, by name, and the table of tiers."""

    low: str
    high: str
    # What feeds the next layer while quantizing. exact: the allocation's own layers; high: the
    # model all in the high tier; float: the 16-bit model.
    propagation: str = "exact"
    tiers: dict[str, TierConfig] = field(default_factory=dict)
    # Share of the calibration batches by which it is chosen how far the Hessian of the others is
    # shrunk towards its mean diagonal; 0: it is not.
    held_out: float = 0.0
    # What calibration tokens count in the Hessians of decoder layers, beside their
    # `calibration.weighting`. count: all alike; gradient: by how much the loss changes with what a
    # linear gives for them; modality: as gradient, but all image tokens alike, and all others.
    token_weights: str = "count"
    # Tiers of what is no linear of the decoder, by name; None: 16 bit.
    embeddings: str | None = None
    head: str | None = None
    vision: str | None = None
    projector: str | None = None
    refine: RefineConfig = field(default_factory=RefineConfig)

    @property
    def parts(self) -> dict[str, str]:
        """The names of the tiers that parts beside the decoder's linears are given."""
        names = {part: getattr(self, part) for part in PARTS}
        return {part: name for part, name in names.items() if name is not None}

    def __post_init__(self) -> None:
        names = {"low": self.low, "high": self.high, **self.parts}
        for key, name in names.items():
            if name not in self.tiers:
                raise unknown(f"tier in quantizer.{key}", name, self.tiers)
        self._require_rows()
        if self.held_out != 0:
            least, most = HELD_OUT
            allowed = f"0, or in [{least}, {most}]"
            require_between("quantizer.held_out", self.held_out, least, most, allowed)
        allowed = f"one of {', '.join(PROPAGATIONS)}"
        is_known = self.propagation in PROPAGATIONS
        require(is_known, "quantizer.propagation", self.propagation, allowed)
        allowed = f"one of {', '.join(TOKEN_WEIGHTS)}"
        is_known = self.token_weights in TOKEN_WEIGHTS
        require(is_known, "quantizer.token_weights", self.token_weights, allowed)

    def _require_rows(self) -> None:
        """A ConfigError if the embeddings' tier cannot decode the rows that tokens look up."""
        if self.embeddings is None or self.tiers[self.embeddings].decodes_rows:
            return
        names = [name for name, tier in self.tiers.items() if tier.decodes_rows]
        allowed = f"a tier that decodes single rows: {', '.join(names) or 'there is none'}"
        require(False, "quantizer.embeddings", self.embeddings, allowed)
