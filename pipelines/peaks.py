"""How much memory a run's stages take at most, from shapes.

| symbol | in the code | meaning |
|---|---|---|
| P, w | `parameters`, `width` | numbers of the model; bytes of one as it is computed in |
| W | weights of a layer's linears | |
| H | a Hessian, c^2 numbers in fp32 | |

What is there all the time, beside the process itself: the model, w P (of a streamed model its
largest layer). Loading reads 16-bit files beside it, 2 P. Packing a layer: hidden states, and what
its packed linears gave for them, up to `model.activations_gb`; the Hessians of a pass and a factor;
the layer's packed linears as numbers; and temporaries of the largest linear. Asking: packed
linears of all layers as numbers beside the 16-bit ones, w W L, unless the model is streamed.
"""

from typing import Any

from luq.config.quantizer import EMBEDDINGS, HEAD
from luq.evaluation.artefacts import Answers, Fidelity, ReferenceProbabilities, TextLosses
from luq.profiling.artefacts import EntropyProfile
from luq.quantization.artefacts import PackedLayer, PackedPart
from luq.store.artefact import Artefact
from pipelines.projection import DTYPES, Projection
from pipelines.workload import (
    BATCH_TOKENS,
    Shape,
    input_groups,
    looked_up,
    parameters,
    part_shapes,
    weights_of,
)

FP32 = 4  # bytes
FP16 = 2
TEMPORARIES = 8  # of a linear that is quantized: its size in fp32, so many times
ACTIVATIONS = 4  # tensors of a batch that a layer has at a time
COPIES = 3  # of vectors that are clustered


class Peaks:
    """Peak memory of what one run makes, in bytes.

    Args:
        projection: of the run.
    """

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        graph = projection.graph
        self.width = DTYPES[graph.checkpoint.dtype]
        self.config = graph.checkpoint.config
        self.linears = projection.shapes[0]
        self.layer_bytes = self.width * weights_of(self.linears)
        self.parameters = parameters(graph.checkpoint)
        model = self.layer_bytes if self.config.stream else self.width * self.parameters
        self.resident = float(model)

    @property
    def load(self) -> float:
        """While the model is loaded."""
        return self.resident + (0 if self.config.stream else FP16 * self.parameters)

    def of(self, artefact: Artefact[Any]) -> float:
        """While an artefact is made."""
        match artefact:
            case PackedLayer():
                return self.resident + self._batch_bytes(BATCH_TOKENS) + self._layer(artefact)
            case PackedPart():
                return self.resident + self._part(artefact)
            case EntropyProfile():
                width = self.projection.hidden
                vectors = min(artefact.tokens, self.projection.tokens.tokens)
                clustered = COPIES * 3 * FP32 * vectors * width  # of three modalities
                return self.resident + self._batch_bytes(BATCH_TOKENS) + clustered
            case Answers() | ReferenceProbabilities() | Fidelity() | TextLosses():
                return self.resident + self._asked(artefact)
            case _:
                return self.resident + self._batch_bytes(BATCH_TOKENS)

    def _batch_bytes(self, tokens: float) -> float:
        """What a layer holds of a batch."""
        widest = max(max(shape) for shape in self.linears.values())
        return ACTIVATIONS * self.width * tokens * widest

    def _layer(self, layer: PackedLayer) -> float:
        largest = max(self.linears.values(), key=lambda shape: shape[0] * shape[1])
        temporaries = TEMPORARIES * FP32 * largest[0] * largest[1]
        if layer.calibration is None:
            return temporaries
        numbers = self.projection.hidden
        if layer.tiers.sees_packed_groups:
            numbers += looked_up(self.linears)
        all_states = self.width * self.projection.tokens.tokens * numbers
        states = min(all_states, self.config.activations_gb * 1e9)
        columns = [self.linears[group[0]][1] for group in input_groups(self.linears)]
        squares = [FP32 * width**2 for width in columns]
        one_pass = max(squares) if layer.tiers.sees_packed_groups else sum(squares)
        return states + one_pass + max(squares) + self.layer_bytes + temporaries

    def _part(self, part: PackedPart) -> float:
        shapes: list[Shape] = part_shapes(self.projection.graph.checkpoint, part.part)
        rows, columns = max(shapes, key=lambda shape: shape[0] * shape[1])
        hessians = 0.0 if part.calibration is None else float(2 * FP32 * columns**2)
        if part.part not in (EMBEDDINGS, HEAD):
            hessians += self._batch_bytes(BATCH_TOKENS)
        return hessians + TEMPORARIES * FP32 * rows * columns

    def _asked(self, artefact: Answers | ReferenceProbabilities | Fidelity | TextLosses) -> float:
        unpacked = self.layer_bytes * (1 if self.config.stream else self.projection.depth)
        if isinstance(artefact, TextLosses):
            return unpacked + self._batch_bytes(max(BATCH_TOKENS, artefact.length))
        table = artefact.reference if isinstance(artefact, Fidelity) else artefact
        asking = self.projection.asking(table.table.benchmark, table.subset)
        batch = min(asking.count, table.batching.batch_size)
        return unpacked + self._batch_bytes(batch * asking.prompt)
