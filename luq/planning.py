"""From scores of layers to an allocation: what orders and plans ask for, as artefacts' values.

`get` is the store's `get`, which makes what is missing, or its `peek`, which raises `NotMade`: the
same code runs a plan and says whether it can be known yet.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from luq.allocation import plans
from luq.allocation.allocations import Allocation
from luq.allocation.evidence import Part, Selection
from luq.allocation.orders import ORDERS, Correlation, correlations
from luq.allocation.plans import Chosen
from luq.calibration.artefacts import Calibration
from luq.calibration.own import OwnSamples
from luq.config import ERRORS, OrderConfig
from luq.config.order import ORDERS_OVER_TOKENS
from luq.errors import ConfigError, DataError
from luq.evaluation import answers
from luq.evaluation.artefacts import Fidelity, Layers
from luq.evaluation.measures import mean_divergence
from luq.evaluation.scorers.summary import mean
from luq.formats.artefacts import LayerFolder, RestSizes
from luq.formats.sizes import rest_ledger
from luq.graph import ModelGraph, QuestionSet
from luq.profiling.entropies import LayerEntropy, over_draws
from luq.quantization.artefacts import (
    DeltaLosses,
    Errors,
    FisherLosses,
    LinearOutputErrors,
    MeasuredErrors,
    OutputErrors,
    Parts,
)
from luq.store.artefact import Get
from luq.tower import planned_parts

CHEAP = ("entropy", "variance", "lim", "zd", "kurtosis", "depth")  # they need no quantized layer
OVER_TOKENS = ("entropy", "variance", "lim")  # they come from the calibration samples alone
WEIGHTS = ("zd", "kurtosis")
GRADIENTS = ("delta_loss", "fisher")  # they need the whole model in memory
# By error, where it is measured of one linear at a time.
LINEAR_ERRORS: dict[str, type[MeasuredErrors[list[Errors]]]] = {
    "output_error": LinearOutputErrors,
    "delta_loss": DeltaLosses,
    "fisher": FisherLosses,
}
# Bytes by which the header of a file with linears in several tiers may be longer than those of
# files in one tier, per linear.
HEADER_SLACK = 8
REPAIRS = 3  # times a budget's plan is made again because its files are larger than expected


def check_draws(order: OrderConfig, calibration: Calibration) -> None:
    """A ConfigError if scores cannot be means over several calibration sets."""
    if order.draws == 1:
        return
    if isinstance(calibration.questions, OwnSamples):
        raise ConfigError(
            f"order.draws={order.draws} is not possible: samples of your own are taken whole, so "
            "that there is nothing to draw again. Use order.draws=1, or a calibration set that is "
            "mixed (calibration=multimodal)"
        )
    if order.name in ERRORS:
        raise ConfigError(
            f"order.draws={order.draws} is not possible with order={order.name}, which goes by "
            "quantized layers, and these are made with one calibration set. Use order.draws=1, or "
            f"one of {', '.join(ORDERS_OVER_TOKENS)}"
        )


class LayerScores:
    """Scores and orders of one run's layers."""

    def __init__(self, graph: ModelGraph, get: Get):
        self.graph = graph
        self.config = graph.config
        self.get = get
        self._files: dict[str, list[LayerFolder]] = {}  # by tier
        self._errors: dict[tuple[str, str], list[float]] = {}  # by score and tier
        self._linear_bytes: dict[str, list[dict[str, int]]] = {}  # by tier

    @cached_property
    def profile(self) -> list[LayerEntropy]:
        """Entropies per layer and modality: means over the draws, if the order has several."""
        return over_draws([self.get(profile) for profile in self.graph.profiles])

    def entropies(self, modality: str) -> list[float]:
        """Mean entropy of every layer over one modality's tokens, in bits."""
        return self.score("entropy", modality)

    def score(self, name: str, modality: str | None = None) -> list[float]:
        """A score per layer; entropy, variance and lim are over the tokens of a modality."""
        if name in OVER_TOKENS:
            of_layers = zip(*self.score_of_draws(name, modality), strict=True)
            return [fmean(of_draws) for of_draws in of_layers]
        if name in WEIGHTS:
            return self.get(self.graph.weight_scores)[name]
        return self.errors(name, self.config.quantizer.low)

    def score_of_draws(self, name: str, modality: str | None = None) -> list[list[float]]:
        """Entropy, variance or lim: of every draw a score per layer."""
        modality = modality or self.config.order.modality
        scores: list[list[float]] = []
        if name == "entropy":
            for profile in self.graph.profiles:
                entries = self.get(profile)
                scores.append([entry.mean for entry in entries if entry.modality == modality])
        else:
            for artefact in self.graph.forward_scores:
                by_modality = self.get(artefact)
                scores.append(by_modality[modality][name] if modality in by_modality else [])
        if not all(scores):
            raise self._no_tokens(modality)
        return scores

    def _no_tokens(self, modality: str) -> ConfigError:
        return ConfigError(
            f"order.modality={modality} is not possible: the calibration set "
            f"(alpha={self.graph.calibration.settings.alpha}) has no {modality} tokens"
        )

    def errors(self, name: str, tier: str) -> list[float]:
        """What each layer alone costs in a tier, by one of `luq.config.ERRORS`.

        Of those by gradients it is the sum of its linears'.
        """
        if (name, tier) not in self._errors:
            self._errors[name, tier] = self._measured_errors(name, tier)
        return self._errors[name, tier]

    def _measured_errors(self, name: str, tier: str) -> list[float]:
        if name in GRADIENTS:
            return [sum(errors.values()) for errors in self.linear_errors(name, tier)]
        self.files(tier)
        layers = self.plain(tier)
        if name == "kl":
            return self._divergences(layers)
        return self.get(OutputErrors(self.graph.calibration, layers))

    def linear_errors(self, name: str, tier: str) -> list[Errors]:
        """What each linear alone costs in a tier, layer by layer."""
        if name in GRADIENTS and self.graph.checkpoint.config.stream:
            raise ConfigError(
                f"{name} needs the gradients of all layers at once: model.stream=false, or "
                "another order or allocation.error"
            )
        self.files(tier)
        layers = self.plain(tier)
        return self.get(LINEAR_ERRORS[name](self.graph.calibration, layers))

    def linear_bytes(self, tier: str) -> list[dict[str, int]]:
        """Bytes of every linear in a tier, layer by layer, in the order of its linears."""
        if tier not in self._linear_bytes:
            self._linear_bytes[tier] = [folder.linear_bytes() for folder in self.files(tier)]
        return self._linear_bytes[tier]

    @property
    def shared_propagation(self) -> str:
        """Under which a layer alone depends on no allocation."""
        return "high" if self.config.quantizer.propagation == "high" else "float"

    def files(self, tier: str) -> list[LayerFolder]:
        """Every layer in one tier, independent of any allocation."""
        if tier not in self._files:
            self._files[tier] = [self.get(layer) for layer in self.plain(tier)]
        return self._files[tier]

    def plain(self, tier: str) -> Layers:
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

    def recorded_draws(self) -> dict[str, list[list[float]]]:
        """Of these scores those that are means over several draws: draw by draw."""
        if self.config.order.draws == 1:
            return {}
        names = [name for name in self.recorded() if name in OVER_TOKENS]
        return {name: self.score_of_draws(name) for name in names}


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
        self._errors: dict[str, list[Errors]] = {}  # of linears, by tier

    @cached_property
    def order(self) -> list[int]:
        """Most compressible layer first; any will do where all layers get one tier."""
        if self.graph.is_uniform:
            return list(range(self.graph.checkpoint.layers))
        return self.scores.order()

    def entropies(self) -> list[float]:
        """Bits per layer, over the order's modality."""
        return self.scores.entropies(self.graph.config.order.modality)

    def linears(self, layer: int) -> tuple[str, ...]:
        """The names of a layer's linears."""
        return tuple(self.scores.linear_bytes(self._known_tier)[layer])

    @property
    def _known_tier(self) -> str:
        """One of the tiers in which all layers are made for the plan."""
        return (self.graph.config.allocation.tiers or [self.low])[0]

    def size(self, part: Part, tier: str) -> int:
        """Bytes of a layer's file in a tier; of linears without the file's header."""
        if not part.linears:
            return self.scores.files(tier)[part.layer].bytes
        sizes = self.scores.linear_bytes(tier)[part.layer]
        return sum(sizes[name] for name in part.linears)

    def header_size(self, layer: int, tiers: list[str]) -> int:
        """Bytes of the header of a layer's file whose linears are in some of the tiers, or more."""
        headers: list[int] = []
        for tier in tiers:
            sizes = self.scores.linear_bytes(tier)[layer]
            headers.append(self.scores.files(tier)[layer].bytes - sum(sizes.values()))
        return max(headers) + HEADER_SLACK * len(self.linears(layer))

    def error(self, part: Part, tier: str) -> float:
        """Measured error of one part in a tier, all others in 16 bit."""
        if tier == self.graph.float_tier:
            return 0.0
        name = self.graph.config.allocation.error
        if not part.linears:
            return self.scores.errors(name, tier)[part.layer]
        errors = self._linear_errors(tier)[part.layer]
        return sum(errors[linear] for linear in part.linears)

    def _linear_errors(self, tier: str) -> list[Errors]:
        if tier not in self._errors:
            self._errors[tier] = self.scores.linear_errors(self.graph.config.allocation.error, tier)
        return self._errors[tier]

    @cached_property
    def _questions(self) -> QuestionSet:
        return self.graph.selection_set(self.graph.config.allocation.samples)

    def select(self, allocation: Allocation) -> Selection:
        """Score of an allocation on the selection split."""
        layers = self.graph.layers(allocation)
        for layer in layers:
            self.get(layer)
        summaries = []
        for name, item in self.graph.answers(layers, self._questions, self._parts).items():
            stored_answers = self.get(item)
            are_errors = ["error" in row for row in answers.rows_of(stored_answers)]
            if not all(are_errors):  # else there is no score
                summaries.append(answers.summary_of(name, stored_answers))
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
        measured = self.graph.fidelity(layers, self._questions, self._parts)
        return _mean_divergence(measured, self.get)

    @cached_property
    def _parts(self) -> Parts:
        return planned_parts(self.graph, self.get).parts

    @cached_property
    def _rest(self) -> RestSizes:
        return self.get(self.graph.rest)

    def rest_bytes(self) -> int:
        """Bytes of everything that is not a decoder linear, packed or not."""
        sizes = {part.part: self.get(part).size() for part in self._parts}
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
    # Layers that were made to be measured have the very files of the plan.
    are_known = graph.config.quantizer.propagation != "exact" and not chosen.allocation.others
    if budget is None or are_known:
        return chosen
    files_bytes = 0
    margin = 0
    for _ in range(REPAIRS):  # a layer's size can depend by a few bytes on what feeds it
        files_bytes = sum(get(layer).bytes for layer in graph.layers(chosen.allocation))
        if files_bytes <= budget:
            break
        margin += files_bytes - budget
        chosen = plans.make(config, RunEvidence(scores, margin))
    return Chosen(chosen.allocation, chosen.report.with_bytes(files_bytes))
