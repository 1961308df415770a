"""What a run's work is made of, in numbers: linears, tokens, batches, questions. Needs no torch.

| symbol | in the code | meaning |
|---|---|---|
| N | `tokens` | calibration tokens |
| B | `batches` | in so many batches they go through the model |
| r, c | `shape` | rows and columns (outputs, inputs) of a linear |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from statistics import mean
from typing import NamedTuple

from luq.calibration.own import OwnSamples
from luq.models.checkpoint import Checkpoint, linear_shapes
from luq.models.families import LINEARS, decoder_weight, fused_groups, part_of
from luq.models.weight_files import stored_tensors
from pipelines.graph import Graph

BATCH_TOKENS = 2048  # of a batch of calibration samples or of held-out text
CHARACTERS = 4  # of a token of English
Shape = tuple[int, int]


class Tokens(NamedTuple):
    """A calibration set."""

    tokens: int  # N
    batches: int  # B
    images: int
    image_tokens: int  # tokens that stand for pieces of images
    samples: int


@dataclass(frozen=True)
class Asking:
    """A benchmark's questions as they are asked.

    `prompt`: tokens, image and all; `answer`: of the reference answer, `longest` of one in a batch;
    `bytes` of a row's columns.
    """

    count: int
    prompt: float
    answer: float
    longest: int
    bytes: float


def layer_shapes(checkpoint: Checkpoint) -> list[dict[str, Shape]]:
    """Shapes of the decoder's linears, layer by layer, in the order of the forward pass."""
    layers: list[dict[str, Shape]] = [{} for _ in range(checkpoint.layers)]
    for (layer, name), shape in linear_shapes(checkpoint.folder).items():
        layers[layer][name] = shape
    places = {name: place for place, name in enumerate(LINEARS)}
    return [
        {name: layer[name] for name in sorted(layer, key=lambda name: (places.get(name, 99), name))}
        for layer in layers
    ]


def input_groups(linears: dict[str, Shape]) -> list[tuple[str, ...]]:
    """Linears that share an input, in the order of the forward pass."""
    return fused_groups(list(linears))


def looked_up(linears: dict[str, Shape]) -> int:
    """Numbers of a token that packed linears give in one pass and later passes look up: those of
    all groups but the last two.
    """
    known = [name for group in input_groups(linears)[:-2] for name in group]
    return sum(linears[name][0] for name in known)


def weights_of(linears: dict[str, Shape]) -> int:
    """Weights of some linears."""
    return sum(rows * columns for rows, columns in linears.values())


def part_shapes(checkpoint: Checkpoint, part: str) -> list[Shape]:
    """Shapes of a part's matrices, those that have a tier; position embeddings have none."""
    shapes: list[Shape] = []
    for name, tensor in stored_tensors(checkpoint.folder).items():
        is_linear = decoder_weight(name) is not None
        is_position = part in ("vision", "projector") and "embed" in name
        if part_of(name) != part or is_linear or is_position or not name.endswith(".weight"):
            continue
        if len(tensor.shape) == 2:
            shapes.append((tensor.shape[0], tensor.shape[1]))
    return shapes


def parameters(checkpoint: Checkpoint) -> int:
    """Numbers in the checkpoint's weight files."""
    return sum(prod(tensor.shape) for tensor in stored_tensors(checkpoint.folder).values())


def calibration_tokens(graph: Graph, lengths: Sequence[int], image_share: float) -> Tokens:
    """What the calibration set of a run will be.

    Args:
        graph: of the run.
        lengths: tokens of some samples with images.
        image_share: of their tokens, those that stand for pieces of images.
    """
    calibration = graph.calibration
    settings = calibration.settings
    if isinstance(calibration.questions, OwnSamples):
        return _own_tokens(calibration.questions, lengths, image_share)
    pictured = settings.alpha * settings.tokens if lengths else 0.0
    images = round(pictured / mean(lengths)) if lengths else 0
    batches = 0
    for length in set(lengths):
        share = lengths.count(length) / len(lengths)
        batches += ceil(images * share / max(1, BATCH_TOKENS // length))
    text_tokens = settings.tokens - pictured
    texts = ceil(text_tokens / settings.sample_tokens)
    batches += ceil(texts / max(1, BATCH_TOKENS // settings.sample_tokens))
    return Tokens(settings.tokens, batches, images, round(image_share * pictured), images + texts)


def _own_tokens(samples: OwnSamples, lengths: Sequence[int], image_share: float) -> Tokens:
    """A user's own samples, whose lengths are all their own."""
    texts = sum(len(sample.text) for sample in samples.samples) // CHARACTERS
    images = sum(len(sample.images) for sample in samples.samples)
    image_tokens = round(images * image_share * mean(lengths)) if lengths else 0
    count = len(samples.samples)
    return Tokens(texts + image_tokens, count, images, image_tokens, count)
