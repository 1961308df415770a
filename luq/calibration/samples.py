"""Calibration samples: token streams with their image-token masks and where each came from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One sequence.

    input_ids and image_mask are [tokens]; `extra` holds what else the model's forward takes.
    `is_alone`: it can be in no batch with others, since its pixels cannot stand behind theirs.
    """

    source: str  # which passage or question
    input_ids: Tensor
    image_mask: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    is_alone: bool = False

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()

    @property
    def extra_shapes(self) -> str:
        """What samples must have in common so that their pixels can be put one after another."""
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in self.extra.items()}
        return str(sorted(shapes.items()))

    @property
    def multimodal(self) -> bool:
        return bool(self.image_mask.any())


@dataclass(frozen=True)
class CalibrationSet:
    """Samples in a fixed order; `hash` covers tokens, masks, pixels and the weight of image
    tokens.
    """

    samples: list[Sample]
    hash: str
    image_weight: float = 1.0  # of an image token in a Hessian, against 1 of a text token
    compute: str = "model"  # the type in which products are computed: the model's, or bfloat16

    @classmethod
    def of(
        cls, samples: list[Sample], weighting: str = "count", image_factor: float = 1.0
    ) -> "CalibrationSet":
        """`weighting`: count, balance (image tokens weigh together as much as text tokens), or
        factor (`image_factor` each).
        """
        digest = hashlib.sha256()
        images = sum(int(sample.image_mask.sum()) for sample in samples)  # tokens
        weight = image_factor
        if weighting == "balance" and images:
            text = sum(sample.tokens for sample in samples) - images
            weight = text / images
        if weight != 1:
            digest.update(f"image weight {weight}".encode())
        for sample in samples:
            digest.update(sample.source.encode())
            for tensor in (sample.input_ids, sample.image_mask, *sample.extra.values()):
                digest.update(tensor.contiguous().numpy().tobytes())
        return cls(samples, digest.hexdigest()[:16], weight)

    @property
    def tokens(self) -> int:
        return sum(s.tokens for s in self.samples)

    @property
    def alpha(self) -> float:
        """Share of the tokens that belong to multimodal samples."""
        return sum(s.tokens for s in self.samples if s.multimodal) / max(self.tokens, 1)

    def image_mask(self) -> Tensor:
        """All samples' image-token masks in batch order [tokens]."""
        return torch.cat([s.image_mask for batch in self.batches() for s in batch])

    def weights(self, batch: list[Sample]) -> Tensor | None:
        """What a batch's tokens count in a Hessian [tokens of all samples]; None: all alike."""
        if self.image_weight == 1:
            return None
        return torch.where(torch.cat([s.image_mask for s in batch]), self.image_weight, 1.0)

    def batches(self, tokens: int = 2048) -> Iterator[list[Sample]]:
        """Samples of equal length, kind and pixel shapes together, at most `tokens` a batch, so
        that nothing is ever padded.
        """
        by_shape: dict[tuple[int, bool, str, int], list[Sample]] = {}
        for index, sample in enumerate(self.samples):
            place = index if sample.is_alone else -1
            key = (sample.tokens, sample.multimodal, sample.extra_shapes, place)
            by_shape.setdefault(key, []).append(sample)
        for (length, *_), group in sorted(by_shape.items(), key=lambda item: item[0]):
            size = max(1, tokens // length)
            for start in range(0, len(group), size):
                yield group[start : start + size]


def inputs_of(batch: list[Sample], device: torch.device) -> dict[str, Tensor]:
    """The model's keyword arguments for one batch."""
    ids = torch.stack([s.input_ids for s in batch]).to(device)
    extra = {name: torch.cat([s.extra[name] for s in batch]).to(device) for name in batch[0].extra}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}
