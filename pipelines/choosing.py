"""From scores of layers to an allocation: what the orders and plans ask for, measured and kept in the store."""

import json
import math
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from luq import registry
from luq.allocation import plans
from luq.allocation.orders import Correlation, correlations
from luq.allocation.plans import Allocation, Chosen, Selection
from luq.errors import ConfigError
from luq.evaluation.scorers.summary import mean
from luq.formats.layer_file import read_layer, stored_bytes
from luq.formats.memory import rest_ledger
from luq.profiling import scores as profiling
from luq.quantization import sensitivity
from luq.store import keys
from luq.store.store import write_json
from pipelines.evaluation import Evaluator

if TYPE_CHECKING:
    from pipelines.stages import Stages

VERSION = 1  # of the scores' arithmetic
CHEAP = (
    "entropy",
    "variance",
    "lim",
    "zd",
    "kurtosis",
    "depth",
)  # orders that need no quantized layer


class Chooser:
    """Scores, orders and the plan of one run."""

    def __init__(self, stages: "Stages"):
        self.stages, self.config = stages, stages.config

    # scores

    def score(self, name: str, modality: str | None = None) -> list[float]:
        """A score per layer; entropy, variance and lim over the tokens of a modality (the order's own by default)."""
        modality = modality or self.config.order.modality
        if name == "entropy":
            return self.stages.entropies(modality)
        if name in profiling.FORWARD:
            found = self._forward
            if modality not in found:
                raise self.stages.no_tokens(modality)
            return found[modality][name]
        if name in profiling.WEIGHTS:
            return self._weights[name]
        return self.errors(name, self.config.quantizer.low)

    def _kept(self, name: str, parts: list, measure) -> dict:
        """Numbers from the store, or measured and put there."""
        key = keys.key("scores", VERSION, name, self.stages.outline.fingerprint, *parts)
        with self.stages.stage("scores"):
            folder = self.stages.store.get(
                "scores",
                key,
                lambda f: write_json(f / "scores.json", measure()),
                f"the {name} scores",
            )
        self.stages.artefacts.setdefault("scores", {})[name] = key
        kept: dict = json.loads((folder / "scores.json").read_text())
        return kept

    @cached_property
    def _forward(self) -> dict[str, dict[str, list[float]]]:
        stages = self.stages
        calibration = stages.calibration_info["hash"]
        return self._kept(
            "forward",
            [calibration],
            lambda: profiling.forward_scores(stages.vlm, stages.calibration.samples),
        )

    @cached_property
    def _weights(self) -> dict[str, list[float]]:
        return self._kept("weights", [], lambda: profiling.weight_scores(self.stages.vlm))

    @cache  # noqa: B019 (a chooser lives as long as its run)
    def database(self, tier: str) -> list[Path]:
        """Every layer in one tier, as `high` or `float` propagation makes it: independent of any allocation."""
        shared = (
            self.config.quantizer.propagation
            if self.config.quantizer.propagation == "high"
            else "float"
        )
        return self.stages.packed(Allocation((tier,) * self.stages.outline.layers), shared)

    @cache  # noqa: B019
    def errors(self, name: str, tier: str) -> list[float]:
        """What each layer alone costs in a tier: `output_error`, `delta_loss` or `kl`."""
        if name == "kl":
            return self._divergences(tier)
        if name == "delta_loss" and self.config.model.stream:
            raise ConfigError(
                "delta_loss needs the gradients of all layers at once: model.stream=false, or another order"
            )
        stages, layers = self.stages, self.database(tier)
        on_disk = partial(sensitivity.output_errors, folder=stages.store.root)
        measure = on_disk if name == "output_error" else sensitivity.delta_losses
        parts = [stages.calibration_info["hash"], [folder.name for folder in layers]]
        measured = self._kept(
            f"{name} {tier}",
            parts,
            lambda: {
                name: measure(stages.vlm, stages.calibration.samples, map(read_layer, layers))
            },
        )
        values: list[float] = measured[name]
        return values

    def _divergences(self, tier: str) -> list[float]:
        """One layer at a time in the tier, all others in 16 bit: mean KL of the selection split's answers."""
        (reference, float_layers), layers = self.stages.reference, self.database(tier)
        judge, found = self._judge(self.config.profile.samples), []
        with self.stages.stage("scores"):
            for i, folder in enumerate(layers):
                folders = [folder if i == j else f for j, f in enumerate(float_layers)]
                measured = judge.fidelity(
                    reference.replace({i: tier}), folders, reference, float_layers
                )
                found.append(mean([m["kl"][0] for m in measured.values() if m["n"]]))
        return found

    # orders

    def order(self, name: str | None = None, modality: str | None = None) -> list[int]:
        """The ranking of layers that the config, or `name`, asks for."""
        ranking = registry.load("order", name or self.config.order.name)
        ranked: list[int] = ranking(
            lambda s: self.score(s, modality), self.stages.outline.layers, self.config.order.seed
        )
        return ranked

    def orders(self) -> dict[str, list[int]]:
        """The cheap orders, entropy over each modality, those that the profile asks for, and the one that is used."""
        names = dict.fromkeys((*CHEAP, *self.config.profile.orders, self.config.order.name))
        found = {name: self.order(name, "all") for name in names}
        for modality in ("image", "text"):
            if any(e.modality == modality for e in self.stages.profile):
                found[f"entropy:{modality}"] = self.order("entropy", modality)
        return found

    def correlations(self) -> list[Correlation]:
        """Rank correlations between all of them."""
        return correlations(self.orders())

    def scores(self) -> dict[str, list[float]]:
        """Name -> score per layer, for the record: of the orders that the profile asks for and of the one that is used."""
        names = dict.fromkeys((*self.config.profile.orders, self.config.order.name))
        scored = (
            n for n in (n.removesuffix("_reverse") for n in names) if n not in ("depth", "random")
        )
        return {name: self.score(name) for name in scored}

    # plans

    def _judge(self, samples: int | None) -> Evaluator:
        """An evaluator that asks the selection split only."""
        config = self.config.evaluation
        if config.split != "report":
            raise ConfigError(
                f"evaluation.split={config.split}: a plan that chooses on the selection split needs 'report' there"
            )
        return self.stages.evaluator_of(
            replace(config, split="selection", samples=samples, fidelity=None)
        )

    @cached_property
    def _selector(self) -> Evaluator:
        return self._judge(self.config.allocation.samples)

    def select(self, allocation: Allocation) -> Selection:
        scored = self._selector.scores(
            allocation, self.stages.packed(allocation), "select"
        ).values()
        errors = [s.summary.stderr for s in scored]
        n = sum(s.summary.n for s in scored)
        return Selection(
            mean([s.summary.score for s in scored]),
            math.sqrt(sum(e * e for e in errors)) / len(errors),
            n,
        )

    def divergence(self, allocation: Allocation) -> float:
        measured = self._selector.fidelity(
            allocation, self.stages.packed(allocation), *self.stages.reference
        )
        return mean([m["kl"][0] for m in measured.values() if m["n"]])

    def choose(self) -> Chosen:
        """The allocation of the config's plan. One with a budget keeps it in the files that are really made."""
        with self.stages.stage("allocate"):
            chosen = plans.make(self.config.allocation, RunEvidence(self))
            budget = chosen.report.budget_bytes
            if budget is None or self.config.quantizer.propagation != "exact":
                return chosen
            files = 0
            for _ in range(3):  # a layer's size can depend by a few bytes on what feeds it
                files = sum(
                    stored_bytes(folder) for folder in self.stages.packed(chosen.allocation)
                )
                if files <= budget:
                    break
                chosen = plans.make(self.config.allocation, RunEvidence(self, files - budget))
                budget = chosen.report.budget_bytes or budget
            return Chosen(chosen.allocation, chosen.report.with_bytes(files))


class RunEvidence:
    """What a plan may ask of a run (`luq.allocation.plans.Evidence`)."""

    def __init__(self, chooser: Chooser, margin: int = 0) -> None:
        self.chooser = chooser
        self.stages = chooser.stages
        self.config = chooser.config
        self.order = chooser.order()
        self.low = self.config.quantizer.low
        self.high = self.config.quantizer.high
        self.margin = margin
        self.select = chooser.select
        self.divergence = chooser.divergence

    def entropies(self) -> list[float]:
        return self.stages.entropies(self.config.order.modality)

    def size(self, layer: int, tier: str) -> int:
        return stored_bytes(self.chooser.database(tier)[layer])

    def error(self, layer: int, tier: str) -> float:
        if self.config.quantizer.tiers[tier].method == "float16":
            return 0.0
        return self.chooser.errors(self.config.allocation.error, tier)[layer]

    def rest_bytes(self) -> int:
        return sum(rest_ledger(self.stages.vlm).values())

    def weights(self) -> int:
        total = 0
        for layer in range(self.stages.outline.layers):
            total += sum(w.numel() for w in self.stages.vlm.original(layer).values())
        return total
