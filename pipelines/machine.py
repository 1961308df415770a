"""What this machine takes for the parts of a run, measured with the code that runs them.

Nothing is measured before it is asked for, and each thing once. What is timed is small: a replica
of the model with one layer, slices of linears, a few questions.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from luq.calibration.mixing import UnusableError, question_sample
from luq.calibration.samples import Sample
from luq.config import TierConfig
from luq.evaluation.ask import ask, make_lm
from luq.evaluation.perplexity import text_losses
from luq.evaluation.predictions import Predictions
from luq.models.replica import Replica
from luq.models.stopwatch import fitted, least_seconds, timed
from luq.profiling.entropy import cluster
from luq.quantization.hessian import HessianSum
from luq.quantization.slices import COLUMNS, Shape, TierCost, tier_cost
from luq.questions.prompts import prompt_of
from luq.questions.tables import Questions
from luq.store import durable
from luq.store.digests import sha256_of
from pipelines.graph import Graph
from pipelines.passes import Computes, Line, Passes, measure, without_layers

PRODUCT_TOKENS = 256  # of which a product X^T X is timed
CLUSTERED = 1 << 21  # numbers in the vectors that are clustered, at most
CAST = 1 << 24  # weights that are read as another type
LOSS_TOKENS = 128
WRITTEN = 1000, 1 << 23  # bytes of files that are written
FILES = 3  # of an artefact: its content, its size, its manifest


class Machine:
    """Measurements for one model.

    Args:
        graph: of a run of it.
        questions: some of the questions that are asked or calibrated on; empty for a language
            model.
    """

    def __init__(self, graph: Graph, questions: Sequence[Questions]) -> None:
        self.graph = graph
        self.questions = questions
        self._tiers: dict[tuple[TierConfig, tuple[Shape, ...]], TierCost] = {}
        self._clusters: dict[tuple[int, int], float] = {}
        self._samples: dict[int, list[Sample]] = {}
        self._sample_seconds: list[float] = []

    @cached_property
    def _built(self) -> tuple[Replica, float]:
        """The stand-in for the model, and what it took to build it."""
        begin = time.perf_counter()
        replica = Replica(self.graph.checkpoint)
        return replica, time.perf_counter() - begin

    @property
    def replica(self) -> Replica:
        """The stand-in for the model."""
        return self._built[0]

    @property
    def replica_seconds(self) -> float:
        """Of building it: a model's classes, its processor."""
        return self._built[1]

    @property
    def replica_bytes(self) -> int:
        """What the stand-in takes in memory, if there is one."""
        return self.replica.bytes if "_built" in vars(self) else 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.replica.vlm.device

    @cached_property
    def samples(self) -> list[Sample]:
        """Questions with images as the model reads them; none for a language model."""
        return [sample for questions in self.questions for sample in self.samples_of(questions)]

    def samples_of(self, questions: Questions) -> list[Sample]:
        """Some questions as the model reads them."""
        if id(questions) in self._samples:
            return self._samples[id(questions)]
        samples: list[Sample] = []
        vlm = self.replica.vlm
        prompt = prompt_of(questions.benchmark, questions.protocol)
        for row, doc in enumerate(questions.docs):
            begin = time.perf_counter()
            try:
                image = questions.image(row).convert("RGB")
                samples.append(question_sample(vlm, str(row), prompt(doc), [image]))
            except UnusableError:
                continue
            self._sample_seconds.append(time.perf_counter() - begin)
        self._samples[id(questions)] = samples
        return samples

    @property
    def sample_seconds(self) -> float:
        """Of making a question's tokens and pixels."""
        return median(self._sample_seconds) if self._sample_seconds else 0.0

    @property
    def computes(self) -> Computes:
        """How passes are computed."""
        config = self.graph.config
        return Computes(config.calibration.compute, config.evaluation.compute)

    @cached_property
    def passes(self) -> Passes:
        """Of the model's parts."""
        samples = sorted(self.samples, key=lambda sample: sample.tokens)
        middle = samples[len(samples) // 2 :][:1]
        return measure(self.replica, middle, self.computes)

    def tier(self, tier: TierConfig, shapes: Sequence[Shape]) -> TierCost:
        """What a tier takes for linears of some shapes."""
        key = tier, tuple(sorted(set(shapes)))
        if key not in self._tiers:
            self._tiers[key] = tier_cost(tier, key[1], self.device)
        return self._tiers[key]

    @cached_property
    def _product(self) -> tuple[float, ...]:
        """Seconds of a token in X^T X: p1 c + p2 c^2."""
        widths = [COLUMNS[1] // 4, COLUMNS[1]]
        seconds: list[float] = []
        for width in widths:
            total = HessianSum(width, self.device)
            inputs = torch.ones(PRODUCT_TOKENS, width, device=self.device)
            seconds.append(least_seconds(lambda: total.add(inputs), self.device) / PRODUCT_TOKENS)  # noqa: B023
        return fitted([(width, width**2) for width in widths], seconds)

    def product_seconds(self, tokens: float, columns: int) -> float:
        """Of summing X^T X."""
        linear, square = self._product
        return tokens * (linear * columns + square * columns**2)

    def cluster_seconds(self, vectors: int, width: int, clusters: int) -> float:
        """Of one K-means: of as many vectors as are quickly clustered, for each of all."""
        used = max(2 * clusters, min(vectors, CLUSTERED // width))
        key = used, clusters
        if key not in self._clusters:
            rng = np.random.default_rng(0)
            points = rng.standard_normal((used, width), dtype=np.float32)
            cluster(points[: 2 * clusters], clusters, 0)  # what is imported does not count
            cpu = torch.device("cpu")
            self._clusters[key] = least_seconds(lambda: cluster(points, clusters, 0), cpu)
        return self._clusters[key] * vectors / used

    @cached_property
    def asking(self) -> Line:
        """Of a benchmark's questions beside the passes of the model: by questions.

        lm-eval's task, chats, pictures, batches, scores: all but what the model answers.
        """
        if not self.questions:
            return Line(0.0, 0.0)
        questions = self.questions[0]
        rows = len(questions.docs)
        lm = make_lm(self.replica.vlm, rows, self.computes.evaluation)
        points: list[tuple[float, float]] = []
        with _answering_at_once(self.replica), tempfile.TemporaryDirectory() as folder:
            for turn, count in enumerate((1, 1, rows)):
                file = Path(folder) / f"{turn}.jsonl"
                with timed(self.device) as spent:
                    ask(lm, questions, list(range(count)), Predictions(file))
                if turn > 0:  # the first time things are imported and compiled
                    points.append((count, spent.seconds))
        return Line.through(points)

    @cached_property
    def loss_seconds(self) -> float:
        """Of a token's loss, beside the layers: the head, and all its probabilities."""
        rows = self.replica.vlm.model.get_output_embeddings().weight.shape[0]
        sequences = torch.randint(3, min(rows, 500), (1, LOSS_TOKENS))
        vlm = self.replica.vlm
        compute = self.computes.evaluation
        with without_layers(self.replica):
            seconds = least_seconds(lambda: text_losses(vlm, sequences, compute), self.device)
        return seconds / LOSS_TOKENS

    @cached_property
    def cast_seconds(self) -> float:
        """Of a weight that is read in 16 bit and computed in another type."""
        weights = torch.ones(CAST, dtype=torch.float16)
        dtype = getattr(torch, self.graph.checkpoint.dtype)
        return least_seconds(lambda: weights.to(dtype, copy=True), torch.device("cpu")) / CAST

    @cached_property
    def _writing(self) -> Line:
        """Of an artefact's files, until they are safe on the disk and their digests are known."""
        cpu = torch.device("cpu")
        points: list[tuple[float, float]] = []
        for size in WRITTEN:
            content = b"0" * size

            def write(content: bytes = content) -> None:
                with tempfile.TemporaryDirectory() as folder:
                    for index in range(FILES):
                        (Path(folder) / str(index)).write_bytes(content if index == 0 else b"0")
                    sha256_of(Path(folder) / "0")
                    durable.sync_tree(Path(folder))

            points.append((size, least_seconds(write, cpu)))
        return Line.through(points)

    def writing_seconds(self, size: float) -> float:
        """Of an artefact of so many bytes."""
        return self._writing.seconds(size)


@contextmanager
def _answering_at_once(replica: Replica) -> Iterator[None]:
    """The replica answers every question with its last token, and no layer runs for it."""
    model = replica.vlm.model
    generate = model.generate

    def answer(input_ids: Tensor, **_: object) -> Tensor:
        return torch.cat([input_ids, input_ids[:, -1:]], 1)

    model.generate = answer
    try:
        yield
    finally:
        model.generate = generate
