"""A checkpoint, and how it is asked."""

from dataclasses import dataclass, field

from luq import registry
from luq.config.checks import require


@dataclass(frozen=True)
class ModelConfig:
    """A Hugging Face vision-language checkpoint and how it is asked."""

    name: str
    path: str  # hub id or local folder; "pocket:NAME" is one that ships with the project
    revision: str | None = None
    device: str = "auto"  # auto: cuda if there is one
    system_prompt: str = ""
    benchmarks: list[str] = field(default_factory=list)
    data: str = "hub"  # where its questions usually come from: see EvaluationConfig.data
    text: str = "wikitext"  # and its held-out text
    text_length: int = 2048
    calibration_tokens: int = 128 * 2048  # the paper's
    do_pad: bool | None = (
        None  # LLaVA: pad an image to a square, as the original does, or crop it; None: the folder's way
    )
    min_pixels: int | None = (
        None  # of an image, for families that take any size; None: the folder's
    )
    max_pixels: int | None = None
    activations_gb: float = (
        4.0  # of calibration activations kept in memory; the others wait on disk
    )
    stream: bool = False  # leave the decoder's layers on disk and read each when it is needed, in the checkpoint's own dtype

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            registry.check("benchmark", name)
        for limit in ("min_pixels", "max_pixels"):
            value = getattr(self, limit)
            require(value is None or value > 0, f"model.{limit}", value, "above 0")

    @property
    def image(self) -> tuple[bool | None, int | None, int | None]:
        """What is done with images otherwise than the folder says; nothing: None, None, None."""
        return self.do_pad, self.min_pixels, self.max_pixels

    @property
    def asking(self) -> tuple[str | bool | int | None, ...]:
        """How a question and its image become tokens and pixels, beside the folder's files: part of the keys of all that asks."""
        return self.system_prompt, *self.image
