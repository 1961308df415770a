"""From scores of layers to an allocation: what orders and plans ask for, as artefacts' values.

`get` is the store's `get`, which makes what is missing, or its `peek`, which raises `NotMade`: the
same code runs a plan and says whether it can be known yet.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

from luq.allocation import plans
from luq.allocation.allocations import Allocation
from luq.allocation.orders import ORDERS, Correlation, correlations
from luq.allocation.plans import Chosen, Selection
from luq.errors import ConfigError, DataError
from luq.evaluation import answers
from luq.evaluation.artefacts import Fidelity, Layers
from luq.evaluation.measures import mean_divergence
from luq.evaluation.scorers.summary import mean
from luq.formats.artefacts import RestSizes
from luq.formats.sizes import rest_ledger
from luq.graph import ModelGraph, QuestionSet
from luq.profiling.entropies import LayerEntropy
from luq.quantization.artefacts import DeltaLosses, LayerFolder, OutputErrors
from luq.store.artefact import Artefact

T = TypeVar("T")
CHEAP = ("entropy", "variance", "lim", "zd", "kurtosis", "depth")  # they need no quantized layer
FORWARD = ("variance", "lim")
WEIGHTS = ("zd", "kurtosis")
REPAIRS = 3  # times a budget's plan is made again because its files are larger than expected


class Get(Protocol):
    """The value of an artefact."""

    def __call__(self, artefact: Artefact[T]) -> T: ...


class LayerScores:
    """Scores and orders of one run's layers."""

    def __init__(self, graph: ModelGraph, get: Get):
        self.graph = graph
        self.config = graph.config
        self.get = get
        self._files: dict[str, list[LayerFolder]] = {}  # by tier
        self._errors: dict[tuple[str, str], list[float]] = {}  # by score and tier

    @cached_property
    def profile(self) -> list[LayerEntropy]:
        """Entropies per layer and modality."""
        return self.get(self.graph.profile)

    def entropies(self, modality: str) -> list[float]:
        """Mean entropy of every layer over one modality's tokens, in bits."""
        values = [entry.mean for entry in self.profile if entry.modality == modality]
        if not values:
            raise self._no_tokens(modality)
        return values

    def score(self, name: str, modality: str | None = None) -> list[float]:
        """A score per layer; entropy, variance and lim are over the tokens of a modality."""
        modality = modality or self.config.order.modality
        if name == "entropy":
            return self.entropies(modality)
        if name in FORWARD:
            by_modality = self.get(self.graph.forward_scores)
            if modality not in by_modality:
                raise self._no_tokens(modality)
            return by_modality[modality][name]
        if name in WEIGHTS:
            return self.get(self.graph.weight_scores)[name]
        return self.errors(name, self.config.quantizer.low)

    def _no_tokens(self, modality: str) -> ConfigError:
        return ConfigError(
            f"order.modality={modality} is not possible: the calibration set "
            f"(alpha={self.graph.calibration.settings.alpha}) has no {modality} tokens"
        )

    def errors(self, name: str, tier: str) -> list[float]:
        """What each layer alone costs in a tier: `output_error`, `delta_loss` or `kl`."""
        if (name, tier) not in self._errors:
            self._errors[name, tier] = self._measured_errors(name, tier)
        return self._errors[name, tier]

    def _measured_errors(self, name: str, tier: str) -> list[float]:
        if name == "delta_loss" and self.graph.checkpoint.config.stream:
            raise ConfigError(
                "delta_loss needs the gradients of all layers at once: model.stream=false, or "
                "another order"
            )
        self.files(tier)
        layers = self._plain(tier)
        if name == "kl":
            return self._divergences(layers)
        kind = OutputErrors if name == "output_error" else DeltaLosses
        return self.get(kind(self.graph.calibration, layers))

    @property
    def shared_propagation(self) -> str:
        """Under which a layer alone depends on no allocation."""
        return "high" if self.config.quantizer.propagation == "high" else "float"

    def files(self, tier: str) -> list[LayerFolder]:
        """Every layer in one tier, independent of any allocation."""
        if tier not in self._files:
            self._files[tier] = [self.get(layer) for layer in self._plain(tier)]
        return self._files[tier]

    def _plain(self, tier: str) -> Layers:
        """These layers. They are not refined: that would take many times as long for each tier, and
        changes no size.
        """
        return self.graph.uniform(tier, self.shared_propagation, refined=False)

    def _divergences(self, packed: Layers) -> list[float]:
        """One layer at a time packed, all others in 16 bit: mean KL of the selection split."""
        graph = self.graph
        questions = graph.selection_set(self.config.profile.samples)
        divergences: list[float] = []
        for index, layer in enumerate(packed):
            layers = list(graph.float_layers)
            layers[index] = layer
            measured = graph.fidelity(tuple(layers), questions)
            divergences.append(
                mean_divergence([self.get(item).measured for item in measured.values()])
            )
        return divergences

    def order(self, name: str | None = None, modality: str | None = None) -> list[int]:
        """The ranking of layers that the config, or `name`, asks for."""
        rank = ORDERS[name or self.config.order.name]
        layers = self.graph.checkpoint.layers
        return rank(lambda score: self.score(score, modality), layers, self.config.order.seed)

    def orders(self) -> dict[str, list[int]]:
        """The cheap orders, entropy over each modality, the profile's, and the one that is used."""
        names = dict.fromkeys((*CHEAP, *self.config.profile.orders, self.config.order.name))
        by_name = {name: self.order(name, "all") for name in names}
        for modality in ("image", "text"):
            if any(entry.modality == modality for entry in self.profile):
                by_name[f"entropy:{modality}"] = self.order("entropy", modality)
        return by_name

    def correlations(self) -> list[Correlation]:
        """Rank correlations between all of them."""
        return correlations(self.orders())

    def recorded(self) -> dict[str, list[float]]:
        """Name -> score per layer: of the orders that the profile asks for and of the used one."""
        names = dict.fromkeys((*self.config.profile.orders, self.config.order.name))
        scores: dict[str, list[float]] = {}
        for name in names:
            score = name.removesuffix("_reverse")
            if score not in ("depth", "random"):
                scores[score] = self.score(score)
        return scores


@dataclass
class RunEvidence:
    """What a plan may ask: answers come from artefacts (`luq.allocation.plans.Evidence`)."""

    scores: LayerScores
    margin: int = 0  # bytes that the real files of a plan took more than `size` said

    def __post_init__(self) -> None:
        self.graph = self.scores.graph
        self.get = self.scores.get
        self.low = self.graph.config.quantizer.low
        self.high = self.graph.config.quantizer.high

    @cached_property
    def order(self) -> list[int]:
        """Most compressible layer first; any will do where all layers get one tier."""
        if self.graph.is_uniform:
            return list(range(self.graph.checkpoint.layers))
        return self.scores.order()

    def entropies(self) -> list[float]:
        """Bits per layer, over the order's modality."""
        return self.scores.entropies(self.graph.config.order.modality)

    def size(self, layer: int, tier: str) -> int:
        """Bytes of a layer's file in a tier."""
        return self.scores.files(tier)[layer].bytes

    def error(self, layer: int, tier: str) -> float:
        """Measured error of one layer in a tier, all others in 16 bit."""
        if tier == self.graph.float_tier:
            return 0.0
        return self.scores.errors(self.graph.config.allocation.error, tier)[layer]

    @cached_property
    def _questions(self) -> QuestionSet:
        return self.graph.selection_set(self.graph.config.allocation.samples)

    def select(self, allocation: Allocation) -> Selection:
        """Score of an allocation on the selection split."""
        layers = self.graph.layers(allocation)
        for layer in layers:
            self.get(layer)
        summaries = []
        parts = self.graph.parts
        for name, item in self.graph.answers(layers, self._questions, parts).items():
            kept = self.get(item)
            if not all("error" in row for row in answers.rows_of(kept)):  # else there is no score
                summaries.append(answers.summary_of(name, kept))
        if not summaries:
            raise DataError("no question of the selection split could be asked")
        variance = sum(summary.stderr**2 for summary in summaries)
        return Selection(
            mean([summary.score for summary in summaries]),
            math.sqrt(variance) / len(summaries),
            sum(summary.n for summary in summaries),
        )

    def divergence(self, allocation: Allocation) -> float:
        """KL to the 16-bit model on the selection split, nats per answer token."""
        layers = self.graph.layers(allocation)
        for layer in layers:
            self.get(layer)
        measured = self.graph.fidelity(layers, self._questions, self.graph.parts)
        return _mean_divergence(measured, self.get)

    @cached_property
    def _rest(self) -> RestSizes:
        return self.get(self.graph.rest)

    def rest_bytes(self) -> int:
        """Bytes of everything that is not a decoder linear, packed or not."""
        sizes = {part.part: self.get(part).size() for part in self.graph.parts}
        return sum(rest_ledger(self._rest.ledger, sizes).values())

    def weights(self) -> int:
        """Weights of the decoder linears."""
        return self._rest.linear_weights


def _mean_divergence(fidelity: dict[str, Fidelity], get: Get) -> float:
    """Mean KL over benchmarks, nats per answer token."""
    return mean_divergence([get(artefact).measured for artefact in fidelity.values()])


def allocate(graph: ModelGraph, get: Get) -> Chosen:
    """The allocation of the config's plan; one with a budget keeps it in the files really made.

    Raises:
        NotMade: with the store's `peek`, something has to be made before it can be known.
    """
    config = graph.config.allocation
    scores = LayerScores(graph, get)
    chosen = plans.make(config, RunEvidence(scores))
    budget = chosen.report.budget_bytes
    if budget is None or graph.config.quantizer.propagation != "exact":
        return chosen
    files_bytes = 0
    for _ in range(REPAIRS):  # a layer's size can depend by a few bytes on what feeds it
        files_bytes = sum(get(layer).bytes for layer in graph.layers(chosen.allocation))
        if files_bytes <= budget:
            break
        chosen = plans.make(config, RunEvidence(scores, files_bytes - budget))
        budget = chosen.report.budget_bytes or budget
    return Chosen(chosen.allocation, chosen.report.with_bytes(files_bytes))
