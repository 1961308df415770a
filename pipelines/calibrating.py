"""The calibration set of a run: which questions and passages, under which key, and what is kept of it."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from luq.calibration import mixing
from luq.calibration.samples import CalibrationSet
from luq.config import RunConfig
from luq.errors import DataError
from luq.evaluation import ask as harness
from luq.models.vlm import VLM
from luq.pocket import benchmarks as pocket
from luq.questions import prompts
from luq.questions import sources as data
from luq.questions.sources import Questions
from luq.store import keys
from luq.store.store import Store, write_json


class Calibration:
    """Made when it is asked for. `vlm` gives the loaded model, which is needed only where the store has no such set."""

    def __init__(self, config: RunConfig, store: Store, fingerprint: str, vlm: Callable[[], VLM]):
        self.config, self.store, self.fingerprint, self.vlm = config, store, fingerprint, vlm

    @cached_property
    def questions(self) -> dict[str, Questions] | None:
        """Real questions, None for the pocket world's; a DataError, before any work starts, if the evaluation asks the same."""
        cache, asked = self.store.root / "datasets", self.config.evaluation
        with harness.quiet():
            found = mixing.read_questions(self.config.calibration, cache)
            pairs = (
                (b, given)
                for given in (found or {}).values()
                for b in asked.benchmarks
                if asked.data != "pocket"
            )
            for benchmark, given in pairs:
                if (
                    data.spec(benchmark).data != data.spec(given.benchmark).data
                ):  # textvqa_ocr asks textvqa's questions
                    continue
                if data.load(benchmark, asked, cache).identity == given.identity:
                    raise DataError(
                        f"calibration.source and evaluation.data give the same {benchmark}: calibrate on other questions"
                    )
        return found

    @cached_property
    def key(self) -> str:
        config = self.config.calibration
        sources = mixing.identity(config, self.questions)
        return keys.key(
            "calibration",
            pocket.VERSION,
            prompts.VERSION,
            self.fingerprint,
            self.config.model.asking,
            config,
            *sources,
        )

    @cached_property
    def samples(self) -> CalibrationSet:
        return mixing.build(self.vlm(), self.config.calibration, self.questions)

    def info(self) -> dict[str, Any]:
        """Hash, tokens, alpha and sources of the set, from the store; its hash is what every later key holds."""

        def build(folder: Path) -> None:
            made = self.samples
            told = {
                "hash": made.hash,
                "tokens": made.tokens,
                "alpha": made.alpha,
                "sources": [s.source for s in made.samples],
            }
            write_json(folder / "calibration.json", told)

        folder = self.store.get("calibration", self.key, build, "the calibration set")
        found: dict[str, Any] = json.loads((folder / "calibration.json").read_text())
        return found
