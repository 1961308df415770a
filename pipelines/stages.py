"""The stages of a run: typed config and store in, artefact out. Each is found in the store or made once."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from luq import keys, registry
from luq.allocation.plans import Allocation, allocate
from luq.calibration import mixing
from luq.calibration.samples import CalibrationSet
from luq.config import ModelConfig, RunConfig, TierConfig
from luq.errors import ConfigError
from luq.evaluation import prompts
from luq.memory import Memory, measure
from luq.models.vlm import VLM, load_vlm
from luq.pocket import benchmarks as pocket
from luq.profiling.capture import layer_outputs
from luq.profiling.entropy import LayerEntropy, profile_entropy
from luq.quantization.database import layer_size, read_layer
from luq.quantization.grid import group_size
from luq.quantization.walk import Walk
from luq.store import Store, write_json
from pipelines.console import Progress
from pipelines.evaluation import Evaluator, Scored

log = logging.getLogger(__name__)


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

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start, made = time.perf_counter(), len(self.store.made)
        yield
        self.seconds[name] = time.perf_counter() - start
        self.cached[name] = len(self.store.made) == made and name != "load"
        self.progress.stage(name, self.seconds[name], self.cached[name], len(self.store.made) - made)

    @cached_property
    def vlm(self) -> VLM:
        with self._stage("load"):
            vlm = shared_vlm(self.config.model)
            self._check(vlm)
        return vlm

    def _check(self, vlm: VLM) -> None:
        """Say before any work what cannot work with this model."""
        layers, k = len(vlm.layers), self.config.allocation.k
        if self.config.allocation.name == "count" and k is not None and k > layers:
            raise ConfigError(f"allocation.k={k} is not possible: {vlm.config.name} has {layers} decoder layers")
        for name in (self.config.quantizer.low, self.config.quantizer.high):
            tier: TierConfig = self.config.quantizer.tiers[name]
            if tier.method == "float16":
                continue
            for linear, weight in vlm.original(0).items():
                try:
                    group_size(weight.shape[1], tier.group_size if tier.method != "billm" else min(tier.block, weight.shape[1]))
                except ConfigError as error:
                    raise ConfigError(f"quantizer.tiers.{name}: {error} ({linear})") from error

    @cached_property
    def calibration(self) -> CalibrationSet:
        return mixing.build(self.vlm, self.config.calibration)

    @cached_property
    def calibration_info(self) -> dict[str, Any]:
        """Hash, tokens, alpha and sources of the calibration set; its hash is what every later key holds."""
        vlm, config = self.vlm, self.config.calibration
        key = keys.key("calibration", pocket.VERSION, prompts.VERSION, vlm.fingerprint, config)

        def build(folder: Path) -> None:
            made = self.calibration
            info = {"hash": made.hash, "tokens": made.tokens, "alpha": made.alpha, "sources": [s.source for s in made.samples]}
            write_json(folder / "calibration.json", info)

        with self._stage("calibrate"):
            folder = self.store.get("calibration", key, build, "the calibration set")
        self.artefacts["calibration"] = key
        info: dict[str, Any] = json.loads((folder / "calibration.json").read_text())
        return info

    @cached_property
    def profile(self) -> list[LayerEntropy]:
        """Entropies per layer and modality, in bits."""
        config, info = self.config.profile, self.calibration_info
        key = keys.key("profile", self.vlm.fingerprint, info["hash"], config)

        def build(folder: Path) -> None:
            outputs = layer_outputs(self.vlm, self.calibration, config.tokens, config.seed)
            total = sum(len(layer) for layer in outputs) * config.seeds
            with self.progress.bar("profile", total) as advance:
                table = profile_entropy(outputs, config, lambda: advance(""))
            write_json(folder / "profile.json", [asdict(entry) for entry in table])

        with self._stage("profile"):
            folder = self.store.get("profile", key, build, "the entropy profile")
        self.artefacts["profile"] = key
        return [LayerEntropy(**entry) for entry in json.loads((folder / "profile.json").read_text())]

    def entropies(self, modality: str) -> list[float]:
        """Mean entropy of every layer over one modality's tokens."""
        found = [e.mean for e in self.profile if e.modality == modality]
        if not found:
            raise ConfigError(
                f"order.modality={modality} is not possible: the calibration set (alpha={self.config.calibration.alpha}) "
                f"has no {modality} tokens"
            )
        return found

    @cached_property
    def order(self) -> list[int]:
        order = self.config.order
        ranked: list[int] = registry.load("order", order.name)(self.entropies(order.modality), order.seed)
        return ranked

    @cached_property
    def allocation(self) -> Allocation:
        entropies, quantizer = self.entropies(self.config.order.modality), self.config.quantizer
        return allocate(self.config.allocation, self.order, entropies, quantizer.low, quantizer.high)

    @cached_property
    def layers(self) -> list[Path]:
        """The folders of the allocation's packed layers."""
        return self.quantize(self.allocation)

    def quantize(self, allocation: Allocation, name: str = "quantize") -> list[Path]:
        info = self.calibration_info
        walk = Walk(self.vlm, lambda: self.calibration, info["hash"], self.config.quantizer, self.store)
        with self._stage(name), self.progress.bar(name, len(allocation.tiers)) as advance:
            folders = walk.quantize(allocation, advance)
        self.artefacts[name] = [folder.name for folder in folders]
        return folders

    @cached_property
    def memory(self) -> Memory:
        return measure(self.vlm, [layer_size(folder, read_layer(folder)) for folder in self.layers])

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.vlm, self.config.evaluation, self.store, self.progress, self._pocket)

    def _pocket(self) -> Path:
        """The folder of the pocket benchmarks' parquet files."""
        split = "selection" if self.config.evaluation.split == "selection" else "report"
        key = keys.key("pocket", pocket.VERSION, prompts.VERSION, split)
        with self._stage("data"):
            return self.store.get("pocket", key, lambda folder: _write_pocket(folder, split), "the pocket benchmarks")

    @cached_property
    def reference(self) -> tuple[Allocation, list[Path]]:
        """The same model in 16 bit, and its layers."""
        tiers = self.config.quantizer.tiers
        name = next((n for n, t in tiers.items() if t.method == "float16"), None)
        if name is None:
            raise ConfigError("quantizer.tiers has no float16 tier: retention needs the model's own 16-bit score")
        allocation = Allocation((name,) * len(self.vlm.layers))
        return allocation, self.quantize(allocation, "quantize 16-bit")

    def evaluate(self, allocation: Allocation, folders: list[Path], name: str = "evaluate") -> dict[str, Scored]:
        """Scores of an allocation per benchmark, answered by the packed weights in `folders`."""
        questions = self.evaluator.questions  # read before the clock starts: they are the same for every allocation
        with self._stage(name):
            scores = self.evaluator.scores(allocation, folders, name)
        self.artefacts[name] = {benchmark: scores[benchmark].key for benchmark in questions}
        return scores

    def fidelity(self) -> tuple[dict[str, dict[str, Any]], dict[str, float] | None]:
        """KL, agreement and likelihoods per benchmark, and perplexity; empty and None if the config asks for none."""
        config = self.config.evaluation
        if config.fidelity == 0 and config.text_tokens == 0:
            return {}, None
        reference, layers = self.reference, self.layers
        with self._stage("fidelity"):
            measured = self.evaluator.fidelity(self.allocation, layers, *reference)
            return measured, self.evaluator.perplexity(self.allocation, layers)


def _write_pocket(folder: Path, split: str) -> None:
    pocket.write(folder, split)
