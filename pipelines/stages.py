"""The stages of a run: typed config and store in, artefact out. Each is found in the store or made once."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from luq.allocation.plans import Allocation, Chosen
from luq.config import EvaluationConfig, ModelConfig, RunConfig, TierConfig
from luq.errors import ConfigError
from luq.formats.layer_file import layer_size, read_layer
from luq.formats.memory import Memory, measure
from luq.models.checkpoint import Outline, outline
from luq.models.vlm import VLM, load_vlm
from luq.pocket import benchmarks as pocket
from luq.profiling.capture import layer_outputs
from luq.profiling.entropy import LayerEntropy, profile_entropy
from luq.quantization.walk import Walk, layer_keys
from luq.questions import prompts
from luq.store import keys
from luq.store.store import Store, write_json
from pipelines.calibrating import Calibration
from pipelines.choosing import Chooser
from pipelines.console import Progress
from pipelines.evaluation import Evaluator, Scored


@lru_cache(maxsize=1)
def _load(config: str) -> VLM:
    return load_vlm(ModelConfig(**json.loads(config)))


def shared_vlm(config: ModelConfig) -> VLM:
    """The model of a config; the jobs of a multirun that use the same one load it once."""
    return _load(json.dumps(asdict(config), sort_keys=True))


class Stages:
    """One run's stages in order. `seconds` and `cached` say what each took and whether the store had it."""

    def __init__(self, config: RunConfig, progress: Progress):
        self.config, self.progress = config, progress
        self.outputs = Path(config.paths.outputs)
        self.store = Store(self.outputs / "store")
        self.seconds: dict[str, float] = {}
        self.cached: dict[str, bool] = {}
        self.artefacts: dict[str, Any] = {}
        self._inner = [0.0]  # seconds that the stages inside each running stage took

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; what a stage inside it takes counts for that one alone."""
        start, made = time.perf_counter(), len(self.store.made)
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole, inner = time.perf_counter() - start, self._inner.pop()
            self._inner[-1] += whole
        count, again = len(self.store.made) - made, name in self.seconds
        self.seconds[name] = self.seconds.get(name, 0.0) + whole - inner
        self.cached[name] = self.cached.get(name, True) and count == 0 and name != "load"
        if count or not again:
            self.progress.stage(name, whole - inner, count == 0 and name != "load", count)

    @cached_property
    def outline(self) -> Outline:
        """Fingerprint and number of layers, without loading the model."""
        found = outline(self.config.model)
        self._check_layers(found.layers)
        self.store.about = found.fingerprint
        return found

    @cached_property
    def vlm(self) -> VLM:
        self.outline  # noqa: B018 (its checks come before the load)
        with self.stage("load"):
            vlm = shared_vlm(self.config.model)
            self._check_groups(vlm)
        return vlm

    def _check_layers(self, layers: int) -> None:
        k = self.config.allocation.k
        if self.config.allocation.name == "count" and k is not None and k > layers:
            raise ConfigError(
                f"allocation.k={k} is not possible: {self.config.model.name} has {layers} decoder layers"
            )

    def _check_groups(self, vlm: VLM) -> None:
        """Say before any work which tier does not fit this model's linears."""
        quantizer = self.config.quantizer
        for name in dict.fromkeys((quantizer.low, quantizer.high, *self.config.allocation.tiers)):
            tier: TierConfig = quantizer.tiers[name]
            for linear, weight in vlm.original(0).items():
                try:
                    tier.check(weight.shape[1])
                except ConfigError as error:
                    raise ConfigError(f"quantizer.tiers.{name}: {error} ({linear})") from error

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration(self.config, self.store, self.outline.fingerprint, lambda: self.vlm)

    @cached_property
    def calibration_info(self) -> dict[str, Any]:
        """Hash, tokens, alpha and sources of the calibration set."""
        with self.stage("calibrate"):
            info = self.calibration.info()
        self.artefacts["calibration"] = self.calibration.key
        return info

    @property
    def profile_key(self) -> str:
        config = self.config.profile
        asked = [config.clusters, config.tokens, config.seeds, config.seed]
        return keys.key("profile", self.outline.fingerprint, self.calibration_info["hash"], asked)

    @cached_property
    def profile(self) -> list[LayerEntropy]:
        """Entropies per layer and modality, in bits."""
        config, key = self.config.profile, self.profile_key

        def build(folder: Path) -> None:
            outputs = layer_outputs(
                self.vlm, self.calibration.samples, config.tokens, config.seed, folder
            )
            total = len(outputs) * len(outputs[0]) * config.seeds
            with self.progress.bar("profile", total) as advance:
                table = profile_entropy(
                    outputs, config.clusters, config.seeds, config.seed, lambda: advance("")
                )
            write_json(folder / "profile.json", [asdict(entry) for entry in table])

        with self.stage("profile"):
            folder = self.store.get("profile", key, build, "the entropy profile")
        self.artefacts["profile"] = key
        return [
            LayerEntropy(**entry) for entry in json.loads((folder / "profile.json").read_text())
        ]

    def entropies(self, modality: str) -> list[float]:
        """Mean entropy of every layer over one modality's tokens."""
        found = [e.mean for e in self.profile if e.modality == modality]
        if not found:
            raise self.no_tokens(modality)
        return found

    def no_tokens(self, modality: str) -> ConfigError:
        return ConfigError(
            f"order.modality={modality} is not possible: the calibration set (alpha={self.config.calibration.alpha}) "
            f"has no {modality} tokens"
        )

    @cached_property
    def chooser(self) -> Chooser:
        return Chooser(self)

    @cached_property
    def order(self) -> list[int]:
        return self.chooser.order()

    @cached_property
    def chosen(self) -> Chosen:
        """The plan's allocation, and what it saw on the way."""
        return self.chooser.choose()

    @cached_property
    def layers(self) -> list[Path]:
        """The folders of the allocation's packed layers."""
        return self.quantize(self.chosen.allocation)

    def packed(
        self, allocation: Allocation, propagation: str | None = None, name: str = "quantize"
    ) -> list[Path]:
        """The folders of an allocation's packed layers, made where they are missing."""
        info, config = self.calibration_info, self.config.quantizer
        config = replace(config, propagation=propagation or config.propagation)
        with self.stage(name):
            wanted = layer_keys(self.outline.fingerprint, info["hash"], config, allocation)
            if all(
                self.store.has("layers", key) for key in wanted
            ):  # no model is needed for what is there
                return [self.store.get("layers", key, lambda folder: None) for key in wanted]
            walk = Walk(
                self.vlm, lambda: self.calibration.samples, info["hash"], config, self.store
            )
            with self.progress.bar(name, len(allocation.tiers)) as advance:
                return walk.quantize(allocation, advance)

    def quantize(self, allocation: Allocation, name: str = "quantize") -> list[Path]:
        folders = self.packed(allocation, name=name)
        self.artefacts[name] = [folder.name for folder in folders]
        return folders

    @cached_property
    def memory(self) -> Memory:
        return measure(self.vlm, [layer_size(folder, read_layer(folder)) for folder in self.layers])

    @cached_property
    def evaluator(self) -> Evaluator:
        return self.evaluator_of(self.config.evaluation)

    def evaluator_of(self, config: EvaluationConfig) -> Evaluator:
        """An evaluator of this run's model on other questions."""
        return Evaluator(
            self.vlm, config, self.store, self.progress, partial(self._pocket, config.split)
        )

    def _pocket(self, split: str) -> Path:
        """The folder of the pocket benchmarks' parquet files."""
        split = "selection" if split == "selection" else "report"
        key = keys.key("pocket", pocket.VERSION, prompts.VERSION, split)

        def build(folder: Path) -> None:
            pocket.write(folder, split)

        with self.stage("data"):
            return self.store.get("pocket", key, build, "the pocket benchmarks")

    @cached_property
    def reference(self) -> tuple[Allocation, list[Path]]:
        """The same model in 16 bit, and its layers."""
        tiers = self.config.quantizer.tiers
        name = next((n for n, t in tiers.items() if t.method == "float16"), None)
        if name is None:
            raise ConfigError(
                "quantizer.tiers has no float16 tier: retention needs the model's own 16-bit score"
            )
        allocation = Allocation((name,) * self.outline.layers)
        return allocation, self.quantize(allocation, "quantize 16-bit")

    def evaluate(
        self, allocation: Allocation, folders: list[Path], name: str = "evaluate"
    ) -> dict[str, Scored]:
        """Scores of an allocation per benchmark, answered by the packed weights in `folders`."""
        questions = (
            self.evaluator.questions
        )  # read before the clock starts: they are the same for every allocation
        with self.stage(name):
            scores = self.evaluator.scores(allocation, folders, name)
        self.artefacts[name] = {benchmark: scores[benchmark].key for benchmark in questions}
        return scores

    def fidelity(self) -> tuple[dict[str, dict[str, Any]], dict[str, float] | None]:
        """KL, agreement and likelihoods per benchmark, and perplexity; empty and None if the config asks for none."""
        config = self.config.evaluation
        if config.fidelity == 0 and config.text_tokens == 0:
            return {}, None
        reference, layers = self.reference, self.layers
        with self.stage("fidelity"):
            measured = self.evaluator.fidelity(self.chosen.allocation, layers, *reference)
            return measured, self.evaluator.perplexity(self.chosen.allocation, layers)
