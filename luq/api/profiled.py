"""`luq.profile`: the entropies of a model's layers."""

from dataclasses import dataclass, field

from luq.api.graph import FLOAT, GraphSettings, LoadedGraph, Samples, calibration_of, quantizer_of
from luq.api.loaded import LoadedModel
from luq.calibration.artefacts import Calibration, CalibrationSummary
from luq.config import OrderConfig, ProfileConfig
from luq.planning import LayerScores, check_draws
from luq.profiling.entropies import LayerEntropy, subsample_of


@dataclass(frozen=True)
class Profile:
    """The entropies of a model's layers, for one set of calibration samples."""

    model: LoadedModel = field(repr=False)
    samples: Calibration = field(repr=False)
    settings: ProfileConfig
    table: list[LayerEntropy] = field(repr=False)  # a row per layer and modality
    calibration: CalibrationSummary = field(repr=False)  # tokens and alpha of the samples

    def entropies(self, modality: str = "all") -> list[float]:
        """Mean entropy of every layer in bits, over all tokens or those of a modality.

        Args:
            modality: all, image or text.

        Raises:
            ConfigError: The samples have no tokens of it.
        """
        return self._scores(OrderConfig(modality=modality)).entropies(modality)

    def order(
        self,
        name: str = OrderConfig.name,
        modality: str = OrderConfig.modality,
        seed: int = 0,
        draws: int = OrderConfig.draws,
    ) -> list[int]:
        """The layers, most compressible first.

        Args:
            name: Of the order (`luq.allocation.orders`).
            modality: Whose tokens it is over: all, image or text.
            seed: Of a random order.
            draws: Calibration sets over which scores of samples are means (`luq.plan`).

        Raises:
            ConfigError: The order does not exist, or cannot be had of these samples.
        """
        order = OrderConfig(name, modality, seed, draws)
        check_draws(order, self.samples)
        return self._scores(order).order()

    def _scores(self, order: OrderConfig) -> LayerScores:
        quantizer = quantizer_of("billm", "gptq4")
        settings = GraphSettings(quantizer, order=order, profile=self.settings)
        return LayerScores(LoadedGraph(self.model, settings, self.samples), self.model.store.get)


def profile(
    model: LoadedModel,
    calibration: Samples,
    *,
    clusters: int = ProfileConfig.clusters,
    tokens: int = ProfileConfig.tokens,
    seeds: int = ProfileConfig.seeds,
    seed: int = 0,
) -> Profile:
    """The entropy of every decoder layer's outputs over K-means clusters, in bits.

    Args:
        model: What is measured.
        calibration: What it sees: a list of dicts, a JSON lines file or a dataset with `text` and
            `image` or `images`, or a `CalibrationConfig`.
        clusters: K of K-means; the default is lowered for few tokens.
        tokens: Output vectors per layer and modality.
        seeds: Repetitions.
        seed: Of the first.

    Raises:
        DataError: A calibration sample cannot be used; the message names it.
        ConfigError: A number is out of its range, or the samples have too few tokens for it.
    """
    settings = ProfileConfig(clusters=clusters, tokens=tokens, seeds=seeds, seed=seed)
    subsample_of([tokens], clusters)
    samples = calibration_of(model, calibration)
    graph = LoadedGraph(model, GraphSettings(quantizer_of(FLOAT, FLOAT), profile=settings), samples)
    summary = model.store.get(samples)
    return Profile(model, samples, settings, model.store.get(graph.profile), summary)
