"""What an artefact will take: seconds and bytes, projected from shapes, tokens and measurements.

| symbol | in the code | meaning |
|---|---|---|
| N, B | `tokens`, `batches` | calibration tokens, and batches of them |
| L | `depth` | decoder layers |
| T, F, S | `TierCost` | of a tier: seconds of a linear, of a Hessian's factor; bytes of a linear |
| X | inputs of a linear | its Hessian is a sum of X^T X |

A packed layer: the passes by which its Hessians are summed, X^T X, F of each Hessian, T of each
linear, and the pass that brings the hidden states to the next layer. A pass for the Hessian of a
group of linears stops there, and costs as much of a whole pass as its linears before the group have
of the layer's weights, less those whose outputs the passes before it left in memory. Answers: each
batch of questions through tower and decoder, then one step a token.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from statistics import mean
from typing import Any, NamedTuple

from luq.calibration.artefacts import Calibration
from luq.config import LayerTiers, TierConfig
from luq.config.quantizer import EMBEDDINGS, HEAD, VISION
from luq.evaluation.artefacts import Answers, Fidelity, ReferenceProbabilities, TextLosses
from luq.evaluation.fidelity import TOP
from luq.models.checkpoint import half_linears
from luq.profiling.artefacts import EntropyProfile, ForwardScores
from luq.profiling.entropies import subsample_of
from luq.quantization.artefacts import (
    BlockErrors,
    DeltaLosses,
    FisherLosses,
    LinearOutputErrors,
    MeasuredErrors,
    PackedLayer,
    PackedPart,
    TokenGradients,
)
from luq.quantization.slices import TierCost
from luq.questions.prompts import TARGETS
from luq.questions.subsets import Subset
from luq.questions.tables import Questions
from luq.store.artefact import Artefact
from pipelines.asked_samples import UNITS, Asked, asked
from pipelines.graph import Graph
from pipelines.machine import Machine
from pipelines.workload import (
    Asking,
    Tokens,
    calibration_tokens,
    input_groups,
    layer_shapes,
    looked_up,
    parameters,
    part_shapes,
    weights_of,
)

DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a number
BACKWARD = 3  # a pass with gradients, in passes without
LOGIT_BYTES = 8  # of a token that is kept of a distribution: its number and its logarithm
ROW_BYTES = 105  # of a row of fidelity
SCORE_BYTES = 140  # of an entry of a profile
SOURCE_BYTES = 17  # of a sample's name in a calibration set
LOSS_BYTES = 21
REFERENCE_BYTES = 240  # what a layer's file says of a tensor that is the checkpoint's
SIZE_FILE_BYTES = 130  # what stands beside a packed layer's file
ANSWER_BYTES = 40  # of a row of answers, beside its columns


class Price(NamedTuple):
    """What an artefact takes."""

    seconds: float
    bytes: float


class Projection:
    """Prices of one run's artefacts on this machine.

    Args:
        graph: of the run.
        machine: measurements of another run of this model, if there are some.
    """

    def __init__(self, graph: Graph, machine: Machine | None = None) -> None:
        self.graph = graph
        self._shared_machine = machine
        self.depth = graph.checkpoint.layers
        self.shapes = layer_shapes(graph.checkpoint)
        self._referenced = half_linears(graph.checkpoint)  # 16-bit tiers hold them by reference
        self._passed: dict[object, list[str]] = {}  # of each walk, the layers that it went through
        self._askings: dict[tuple[str, Subset], Asking] = {}
        self._standing: list[str] = []  # keys of the layers that stand in the model

    # What the run asks

    @cached_property
    def asked(self) -> dict[str, Asked]:
        """Some questions of each benchmark that is asked."""
        subset = self.graph.questions.subset
        return {name: asked(table, subset) for name, table in self.graph.questions.tables.items()}

    @cached_property
    def _calibrated(self) -> list[Questions]:
        """Some of the questions that the model is calibrated on."""
        graph = self.graph
        if not graph.is_calibrated or not graph.checkpoint.sees_images:
            return []
        tables = graph.calibration.questions
        if isinstance(tables, tuple):
            return [asked(table, Subset("all", UNITS)).questions for table in tables]
        names = graph.config.calibration.benchmarks
        return [item.questions for name, item in self.asked.items() if name in names]

    @cached_property
    def machine(self) -> Machine:
        """The measurements."""
        if self._shared_machine is not None:
            return self._shared_machine
        questions = [item.questions for item in self.asked.values()] or self._calibrated
        return Machine(self.graph, questions)

    @cached_property
    def tokens(self) -> Tokens:
        """The calibration set."""
        samples = [s for q in self._calibrated for s in self.machine.samples_of(q)]
        if not samples and self.graph.config.calibration.alpha > 0:
            samples = self.machine.samples
        total = sum(sample.tokens for sample in samples)
        share = sum(int(s.image_mask.sum()) for s in samples) / total if total else 0.0
        return calibration_tokens(self.graph, [sample.tokens for sample in samples], share)

    def asking(self, benchmark: str, subset: Subset) -> Asking:
        """How questions of a benchmark are asked."""
        key = benchmark, subset
        if key not in self._askings:
            self._askings[key] = self._asked_as(benchmark, subset)
        return self._askings[key]

    def _asked_as(self, benchmark: str, subset: Subset) -> Asking:
        item = self.asked[benchmark]
        if subset != self.graph.questions.subset:
            item = asked(self.graph.questions.tables[benchmark], subset)
        tokenizer = self.machine.replica.vlm.processor.tokenizer
        target = TARGETS[benchmark]
        answers = [
            len(tokenizer(target(doc), add_special_tokens=False).input_ids) + 1  # and its end
            for doc in item.questions.docs
        ]
        prompts = [
            sample.tokens for sample in self.machine.samples_of(self.asked[benchmark].questions)
        ]
        rows = [len(json.dumps(doc, default=str)) for doc in item.questions.docs]
        return Asking(item.rows, mean(prompts), mean(answers), max(answers), mean(rows))

    # Passes

    def _pass_seconds(self, share: float = 1.0, layers: int = 1) -> float:
        """All calibration tokens through a share of each of some layers."""
        tokens = self.tokens
        line = self.machine.passes.calibration
        seconds = share * line.seconds(tokens.tokens, tokens.batches)
        return layers * (seconds + self._reading_seconds(tokens.batches))

    def _before_seconds(self) -> float:
        """All calibration samples up to the decoder: embeddings, and the tower for images."""
        tokens, passes = self.tokens, self.machine.passes
        calls = min(tokens.images, tokens.batches)
        tower = passes.block.seconds(tokens.images, calls) * self.machine.replica.blocks
        return tower + passes.other.seconds(tokens.tokens, tokens.batches)

    def _reading_seconds(self, calls: int) -> float:
        """Reading a layer from disk at each of some calls, where the model is streamed."""
        if not self.graph.checkpoint.config.stream:
            return 0.0
        return calls * weights_of(self.shapes[0]) * self.machine.cast_seconds

    def _walk_seconds(self, layer: PackedLayer) -> float:
        """Bringing hidden states to a layer, as `luq.quantization.walk.Walk` does it."""
        way = _way_to(layer)
        passed = self._passed.get(_walk_of(layer))
        seconds = 0.0
        if passed is None or passed != way[: len(passed)]:
            seconds += self._before_seconds()
            passed = []
        for index in range(len(passed), layer.index):
            seconds += self._pass_seconds()
            if way[index]:
                seconds += self._unpacking_seconds(layer.before[index])
        self._passed[_walk_of(layer)] = way
        return seconds

    def _unpacking_seconds(self, layer: PackedLayer) -> float:
        """All weights of a packed layer as numbers."""
        shapes = self.shapes[layer.index]
        return sum(
            self._tier(layer.tiers.of_linear(name)).unpack_seconds * rows * columns
            for name, (rows, columns) in shapes.items()
        )

    def _tier(self, tier: TierConfig) -> TierCost:
        return self.machine.tier(tier, list(self.shapes[0].values()))

    # Artefacts

    def price(self, artefact: Artefact[Any]) -> Price:
        """What an artefact takes that is made after those that were asked about before it."""
        price = self._table(artefact) or self._price(artefact)
        return Price(price.seconds + self.machine.writing_seconds(price.bytes), price.bytes)

    def made(self, artefact: Artefact[Any]) -> None:
        """An artefact is made whose price is known otherwise: what comes next begins after it."""
        if isinstance(artefact, PackedLayer) and artefact.calibration is not None:
            self._passed[_walk_of(artefact)] = _way_to(artefact)
        elif isinstance(artefact, Answers | TextLosses | ReferenceProbabilities | Fidelity):
            self._standing = [layer.key for layer in artefact.layers]

    def _price(self, artefact: Artefact[Any]) -> Price:
        match artefact:
            case Calibration():
                return self._calibration()
            case EntropyProfile():
                return self._profile(artefact)
            case PackedLayer():
                return self._layer(artefact)
            case PackedPart():
                return self._part(artefact)
            case Answers():
                return self._answers(artefact)
            case ReferenceProbabilities():
                return self._forced(artefact, is_reference=True)
            case Fidelity():
                self_price = self._forced(artefact.reference, is_reference=False)
                installed = self._installing_seconds(artefact.layers)
                return Price(self_price.seconds + installed, self_price.bytes)
            case TextLosses():
                return self._losses(artefact)
            case _:
                return self._scores(artefact)

    def _table(self, artefact: Artefact[Any]) -> Price | None:
        """Questions that a plug-in makes; None: it is something else."""
        tables = self.graph.questions.tables
        names = [name for name, table in tables.items() if table.content == artefact]
        if not names:
            return None
        items = [self.asked[name] for name in names]
        return Price(sum(item.seconds for item in items), sum(item.bytes for item in items))

    def load(self) -> Price:
        """Loading the model: building it, and reading its weights."""
        weights = parameters(self.graph.checkpoint)
        seconds = self.machine.replica_seconds + 2 * weights * self.machine.cast_seconds
        return Price(seconds, 0.0)

    def _calibration(self) -> Price:
        tokens = self.tokens
        seconds = tokens.images * self.machine.sample_seconds
        return Price(seconds, SOURCE_BYTES * tokens.samples)

    def _profile(self, profile: EntropyProfile) -> Price:
        tokens = self.tokens
        counts = [tokens.image_tokens, tokens.tokens - tokens.image_tokens]
        vectors = [min(count, profile.tokens) for count in counts if count]
        modalities = 1 + len(vectors) if len(vectors) > 1 else 1
        size, clusters = subsample_of(vectors, profile.clusters)
        each = self.machine.cluster_seconds(size, self.hidden, clusters)
        seconds = self._before_seconds() + self._pass_seconds(layers=self.depth)
        seconds += self.depth * modalities * profile.seeds * each
        return Price(seconds, SCORE_BYTES * self.depth * (1 + len(vectors)))

    def _layer(self, layer: PackedLayer) -> Price:
        shapes = self.shapes[layer.index]
        seconds, size = self._linears(layer)
        if layer.calibration is not None:
            seconds += self._walk_seconds(layer) + self._hessian_seconds(shapes, layer.tiers)
        if layer.refinement is not None:
            settings = layer.refinement.settings
            # It computes in the model's own type; so do calibration's passes, unless
            # calibration.compute says otherwise: then this is too little.
            step = self.machine.passes.calibration.seconds(settings.batch)
            seconds += BACKWARD * settings.steps * step
            seconds += 2 * self._pass_seconds() if settings.fit else 0.0
        return Price(seconds, size)

    def _linears(self, layer: PackedLayer) -> Price:
        """Quantizing a layer's linears, and the file that holds them."""
        seconds = 0.0
        size = float(SIZE_FILE_BYTES)
        for name, (rows, columns) in self.shapes[layer.index].items():
            tier = layer.tiers.of_linear(name)
            cost = self._tier(tier)
            seconds += cost.seconds(rows, columns)
            if tier.is_exact and (layer.index, name) in self._referenced:
                size += REFERENCE_BYTES
                seconds += self.machine.writing_seconds(cost.bytes(rows, columns))  # its digest
            else:
                size += cost.bytes(rows, columns) + cost.header_bytes
        return Price(seconds, size)

    def _hessian_seconds(self, shapes: dict[str, tuple[int, int]], tiers: LayerTiers) -> float:
        """The Hessians of a layer's linears, and their factors."""
        if tiers.data_free:
            return 0.0
        whole = weights_of(shapes)
        groups = input_groups(shapes)
        seconds = self._pass_seconds() / self.tokens.batches  # one batch, to see what calls what
        before: dict[str, tuple[int, int]] = {}
        share = 0.0  # of the layer's weights, before the group
        for group in groups:
            costs = [self._tier(tiers.of_linear(name)) for name in group]
            columns = shapes[group[0]][1]
            known = self.known_share * share  # looked up: all but the last group's outputs
            share = weights_of(before) / whole
            seconds += self.machine.product_seconds(self.tokens.tokens, columns)
            seconds += max(cost.factor_seconds(columns) for cost in costs)
            if tiers.sees_packed_groups:  # what was packed is unpacked once
                seconds += self._pass_seconds(share - known)
                for name, cost in zip(group, costs, strict=True):
                    seconds += cost.unpack_seconds * weights_of({name: shapes[name]})
            before |= {name: shapes[name] for name in group}
        return seconds if tiers.sees_packed_groups else seconds + self._pass_seconds(share)

    @property
    def hidden(self) -> int:
        """Numbers of a token's hidden state."""
        first = next(iter(self.shapes[0].values()))
        return first[1]

    @property
    def known_share(self) -> float:
        """Of the outputs that passes look up, what has room beside the hidden states."""
        checkpoint = self.graph.checkpoint
        number = DTYPES[checkpoint.dtype] * self.tokens.tokens
        room = checkpoint.config.activations_gb * 1e9 - number * self.hidden
        return min(1.0, max(0.0, room) / (number * looked_up(self.shapes[0])))

    def _part(self, part: PackedPart) -> Price:
        """Tower, projector, head or embeddings; a tower's tokens are taken to be those it gives."""
        shapes = dict(enumerate(part_shapes(self.graph.checkpoint, part.part)))
        distinct = list(shapes.values())
        seconds = 0.0
        size = float(SIZE_FILE_BYTES)
        widths: dict[int, float] = {}
        for rows, columns in distinct:
            cost = self.machine.tier(part.tier, distinct)
            seconds += cost.seconds(rows, columns)
            size += cost.bytes(rows, columns) + cost.header_bytes
            widths[columns] = widths.get(columns, 0) + cost.factor_seconds(columns)
        if part.calibration is None:
            return Price(seconds, size)
        if part.part in (EMBEDDINGS, HEAD):
            seconds += self._before_seconds() + self._pass_seconds(layers=self.depth)
            seconds += self.machine.product_seconds(self.tokens.tokens, distinct[0][1])
            return Price(seconds + sum(widths.values()), size)
        passes = 2.4 if part.part == VISION else 2.0
        seconds += passes * self._before_seconds() + sum(widths.values())
        for _, columns in distinct:
            seconds += self.machine.product_seconds(self.tokens.image_tokens, columns)
        return Price(seconds, size)

    def _answers(self, answers: Answers) -> Price:
        asking = self.asking(answers.table.benchmark, answers.subset)
        seconds = self._installing_seconds(answers.layers)
        seconds += self.machine.asking.seconds(asking.count)
        size = answers.batching.batch_size
        for start in range(0, asking.count, size):
            seconds += self._answer_seconds(min(size, asking.count - start), asking)
        return Price(seconds, (asking.bytes + ANSWER_BYTES) * asking.count)

    def _answer_seconds(self, batch: int, asking: Asking) -> float:
        """One batch: its prompts, then a step for each further token of its longest answer."""
        passes = self.machine.passes
        step = self.depth * (passes.step.seconds(batch) + self._reading_seconds(1))
        step += passes.head.seconds(batch) + passes.step_other
        return self._prompt_seconds(batch, asking.prompt) + (asking.longest - 1) * step

    def _prompt_seconds(self, batch: int, length: float) -> float:
        """A batch of prompts through tower and decoder, up to the first token's probabilities."""
        passes = self.machine.passes
        seconds = self.depth * (passes.layer.seconds(batch * length) + self._reading_seconds(1))
        seconds += self.machine.replica.blocks * passes.block.seconds(batch)
        return seconds + passes.other.seconds(batch * length) + passes.head.seconds(batch)

    def _forced(self, reference: ReferenceProbabilities, is_reference: bool) -> Price:
        """Reference answers' probabilities: a pass of each batch, and the head at their places."""
        asking = self.asking(reference.table.benchmark, reference.subset)
        size = reference.batching.batch_size
        seconds = self.machine.asking.each * asking.count
        for start in range(0, asking.count, size):
            batch = min(size, asking.count - start)
            seconds += self._prompt_seconds(batch, asking.prompt + asking.answer)
            seconds += batch * asking.longest * self.machine.loss_seconds
        row_bytes = LOGIT_BYTES * TOP * asking.answer if is_reference else ROW_BYTES
        if is_reference:
            seconds += self._installing_seconds(reference.layers)
        return Price(seconds, row_bytes * asking.count)

    def _losses(self, losses: TextLosses) -> Price:
        tokens = losses.tokens // losses.length * losses.length
        calls = max(1, -(-tokens // 2048))
        passes = self.machine.passes
        seconds = self.depth * (passes.layer.seconds(tokens, calls) + self._reading_seconds(calls))
        seconds += passes.other.seconds(tokens, calls) + self.machine.loss_seconds * tokens
        seconds += self._installing_seconds(losses.layers)
        return Price(seconds, LOSS_BYTES * tokens / losses.length)

    def _installing_seconds(self, layers: Sequence[PackedLayer]) -> float:
        """Putting layers into the model in place of those that stand there: they are unpacked."""
        keys = [layer.key for layer in layers]
        changed = [
            layer
            for index, layer in enumerate(layers)
            if index >= len(self._standing) or self._standing[index] != layer.key
        ]
        self._standing = keys
        return sum(self._unpacking_seconds(layer) for layer in changed)

    def _scores(self, scores: Artefact[Any]) -> Price:
        """Scores of layers: passes of the calibration samples, with packed weights and without."""
        whole = self._before_seconds() + self._pass_seconds(layers=self.depth)
        match scores:
            case ForwardScores():
                return Price(whole, SCORE_BYTES * self.depth)
            case LinearOutputErrors():
                return Price(whole * (1 + len(self.shapes[0])), SCORE_BYTES * self.depth)
            case DeltaLosses() | FisherLosses() | TokenGradients():
                return Price(BACKWARD * whole, SCORE_BYTES * self.depth)
            case MeasuredErrors():
                return Price(2 * whole, SCORE_BYTES * self.depth)
            case BlockErrors():
                blocks = self.machine.replica.blocks
                return Price((1 + blocks) * self._before_seconds(), SCORE_BYTES * blocks)
            case _:
                return Price(0.0, 0.0)


def _walk_of(layer: PackedLayer) -> object:
    """What tells the walks of calibration samples apart (`luq.quantization.artefacts.walk_of`)."""
    return layer.calibration, layer.refinement is not None, layer.gradients


def _way_to(layer: PackedLayer) -> list[str]:
    """Keys of the layers that samples pass on their way to a layer; empty for 16-bit ones."""
    way = [before.key for before in layer.before[: layer.index]]
    return way + [""] * (layer.index - len(way))
