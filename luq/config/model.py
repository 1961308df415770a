"""A checkpoint, and how it is asked."""

import re
from dataclasses import dataclass, field

from luq.config.checks import (
    require,
    require_between,
    require_count,
    require_text,
)
from luq.config.evaluation import require_task_names

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
LARGEST_PIXELS = 2**31 - 1  # of an image
LARGEST_GB = 10**6  # of a machine's memory


@dataclass(frozen=True)
class ModelConfig:
    """A Hugging Face vision-language checkpoint and how it is asked."""

    name: str
    # hub id or local folder; "pocket:NAME" is one that ships with the project
    path: str
    revision: str | None = None
    # auto, cpu, cuda or cuda:N; auto: cuda if there is one
    device: str = "auto"
    system_prompt: str = ""
    benchmarks: list[str] = field(default_factory=list)
    # Where its questions and its held-out text usually come from: see EvaluationConfig.
    data: str = "hub"
    text: str = "wikitext"
    text_length: int = 2048
    # How many units of each benchmark `evaluation=pocket` asks for their likelihoods; None for all.
    fidelity: int | None = None
    # the paper's
    calibration_tokens: int = 128 * 2048
    # what a report says where this model's plans are compared with 4-bit ones
    caveat: str = ""
    # LLaVA: pad an image to a square, as the original does, or crop it; None for the folder's way
    do_pad: bool | None = None
    # of an image, for families that take any size; None for the folder's
    min_pixels: int | None = None
    max_pixels: int | None = None
    # of calibration activations that stay in memory; the others wait on disk
    activations_gb: float = 4.0
    # Leave the decoder's layers on disk and read each when it is needed, in the checkpoint's own
    # dtype; on a CPU fp16 is read as fp32.
    stream: bool = False

    def __post_init__(self) -> None:
        is_device = DEVICE.fullmatch(self.device) is not None
        require(is_device, "model.device", self.device, "auto, cpu, cuda or cuda:N")
        require_task_names("model.benchmarks", self.benchmarks)
        require_text("model.name", self.name)
        require_text("model.path", self.path)
        require_text("model.revision", self.revision)
        require_text("model.data", self.data)
        require_text("model.text", self.text)
        require_count("model.text_length", self.text_length, 2)
        require_count("model.fidelity", self.fidelity, 0, "null for all")
        require_count("model.calibration_tokens", self.calibration_tokens, 256)
        for limit in ("min_pixels", "max_pixels"):
            value = getattr(self, limit)
            allowed = f"above 0 and at most {LARGEST_PIXELS}"
            require_between(f"model.{limit}", value, 1, LARGEST_PIXELS, allowed)
        if self.min_pixels is not None and self.max_pixels is not None:
            allowed = f"at most model.max_pixels={self.max_pixels}"
            require(
                self.min_pixels <= self.max_pixels, "model.min_pixels", self.min_pixels, allowed
            )
        require_between(
            "model.activations_gb", self.activations_gb, 0, LARGEST_GB, f"in [0, {LARGEST_GB}]"
        )

    @property
    def image(self) -> tuple[bool | None, int | None, int | None]:
        """What is done with images otherwise than the folder says; nothing: None, None, None."""
        return self.do_pad, self.min_pixels, self.max_pixels

    @property
    def asking(self) -> tuple[str | bool | int | None, ...]:
        """How a question and its image become tokens and pixels, beside the folder's files.

        It is part of the keys of all that asks.
        """
        return self.system_prompt, *self.image
