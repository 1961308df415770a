"""The evaluation stages of a run: answers, fidelity and perplexity of an allocation, each an artefact in the store."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from luq.allocation.plans import Allocation
from luq.config import EvaluationConfig
from luq.evaluation import answers, collapse, fidelity, perplexity
from luq.evaluation import ask as harness
from luq.evaluation.answers import ANSWERS, FIDELITY
from luq.evaluation.predictions import Predictions, read_rows, write_rows
from luq.evaluation.scorers.summary import Summary
from luq.models.vlm import VLM
from luq.quantization.walk import install
from luq.questions import prompts, subsets
from luq.questions import sources as data
from luq.questions.sources import Questions
from luq.store import keys
from luq.store.store import Store, write_json
from pipelines.console import Progress

REFERENCE = "reference.safetensors"


class Scored(NamedTuple):
    """One benchmark of one allocation: its summary, why the model is none any more, and rows that were errors."""

    summary: Summary
    collapsed: str
    errors: int
    key: str

    @classmethod
    def read(cls, store: Store, benchmark: str, key: str) -> "Scored":
        rows = read_rows(store.verify("evaluation", key) / ANSWERS)
        errors = sum("error" in row for row in rows)
        return cls(answers.summarise(benchmark, rows), collapse.collapsed(rows), errors, key)


class Evaluator:
    """Asks allocations of one model the questions of one config. `pocket` makes or finds the pocket benchmarks' folder."""

    def __init__(
        self,
        vlm: VLM,
        config: EvaluationConfig,
        store: Store,
        progress: Progress,
        pocket: Callable[[], Path],
    ):
        self.vlm, self.config, self.store, self.progress, self.pocket = (
            vlm,
            config,
            store,
            progress,
            pocket,
        )

    @cached_property
    def questions(self) -> dict[str, Questions]:
        folder = self.pocket() if self.config.data == "pocket" else None
        with harness.quiet():
            return {
                b: data.load(b, self.config, self.store.root / "datasets", folder)
                for b in self.config.benchmarks
            }

    @cached_property
    def lm(self) -> Any:
        return harness.make_lm(self.vlm, self.config.batch_size)

    @cached_property
    def subset(self) -> dict[str, list[int]]:
        """The rows that are asked, per benchmark."""
        return {
            name: subsets.choose(questions, self.config)
            for name, questions in self.questions.items()
        }

    @cached_property
    def fidelity_subset(self) -> dict[str, list[int]]:
        """The rows that KL and likelihoods are measured on, per benchmark."""
        if self.config.fidelity is None:
            return self.subset
        fewer = min(self.config.fidelity, self.config.samples or self.config.fidelity)
        if fewer == 0:
            return {}
        return {
            name: subsets.choose(q, replace(self.config, samples=fewer))
            for name, q in self.questions.items()
        }

    def _key(
        self, stage: str, layers: list[Path], benchmark: str, ids: list[int], *more: Any
    ) -> str:
        asked = [
            benchmark,
            self.questions[benchmark].identity,
            ids,
            self.vlm.config.asking,
            prompts.VERSION,
        ]
        return keys.key(
            stage, self.vlm.fingerprint, [folder.name for folder in layers], asked, *more
        )

    def _use(self, allocation: Allocation, layers: list[Path]) -> Callable[[], None]:
        """A function that puts the allocation's packed layers into the model and checks that they are what is stored, once."""

        @cache
        def use() -> None:
            install(self.vlm, allocation, layers)
            harness.assert_installed(self.vlm, allocation, layers)

        return use

    def scores(self, allocation: Allocation, layers: list[Path], name: str) -> dict[str, Scored]:
        """Answer every benchmark with the packed weights in `layers`, or find that it was done."""
        found, total = {}, sum(map(len, self.subset.values()))
        use = self._use(allocation, layers)
        with self.progress.bar(name, total) as advance:
            for benchmark, ids in self.subset.items():
                key = self._key("evaluation", layers, benchmark, ids)
                self._answers(benchmark, ids, key, use, partial(advance, benchmark))
                found[benchmark] = Scored.read(self.store, benchmark, key)
        return found

    def _answers(
        self,
        benchmark: str,
        ids: list[int],
        key: str,
        use: Callable[[], None],
        advance: Callable[[int], None],
    ) -> None:
        under_way = self.store.root / "evaluation" / f".{key}.partial.jsonl"

        def build(folder: Path) -> None:
            use()
            kept = Predictions(under_way)
            if kept.reused:
                self.progress.note(
                    f"{kept.reused} of {len(ids)} answers to {benchmark} are kept from before the interruption"
                )
            rows = harness.ask(
                self.lm, self.questions[benchmark], ids, kept, self.config.strict, advance
            )
            write_rows(folder / ANSWERS, harness.with_docs(self.questions[benchmark], rows))

        self.store.get("evaluation", key, build, f"the answers to {benchmark}")
        under_way.unlink(missing_ok=True)

    def fidelity(
        self,
        allocation: Allocation,
        layers: list[Path],
        reference: Allocation,
        reference_layers: list[Path],
    ) -> dict[str, dict[str, Any]]:
        """KL to the 16-bit model, agreement and likelihood of the reference answers, per benchmark."""
        subset = self.fidelity_subset
        use = self._use(reference, reference_layers)
        keys_ = {b: self._reference(b, ids, reference_layers, use) for b, ids in subset.items()}
        found, total = {}, sum(map(len, subset.values()))
        use = self._use(allocation, layers)
        with self.progress.bar("fidelity", total) as advance:
            for benchmark, ids in subset.items():
                step = partial(advance, benchmark)
                found[benchmark] = self._fidelity(
                    benchmark, ids, keys_[benchmark], layers, use, step
                )
        return found

    def _reference(
        self, benchmark: str, ids: list[int], layers: list[Path], use: Callable[[], None]
    ) -> str:
        key = self._key("reference", layers, benchmark, ids, fidelity.VERSION)

        def build(folder: Path) -> None:
            use()
            logs = fidelity.log_probabilities(
                self.lm, self.questions[benchmark], ids, self.config.strict, lambda n: None
            )
            fidelity.write_reference(folder / REFERENCE, logs)

        self.store.get("reference", key, build, f"the 16-bit model's probabilities of {benchmark}")
        return key

    def _fidelity(
        self, benchmark: str, ids: list[int], reference: str, layers: list[Path], use: Callable[[], None],
        advance: Callable[[int], None],
    ) -> dict[str, Any]:  # fmt: skip
        key = self._key("fidelity", layers, benchmark, ids, reference)

        def build(folder: Path) -> None:
            use()
            kept = fidelity.read_reference(self.store.path("reference", reference) / REFERENCE)
            logs = fidelity.log_probabilities(
                self.lm, self.questions[benchmark], ids, self.config.strict, advance
            )
            write_rows(folder / FIDELITY, fidelity.measure(logs, kept))

        rows = read_rows(
            self.store.get("fidelity", key, build, f"the fidelity on {benchmark}") / FIDELITY
        )
        return fidelity.summarise(rows) | {"key": key}

    def perplexity(self, allocation: Allocation, layers: list[Path]) -> dict[str, float] | None:
        """Perplexity on held-out text; None if the config asks for none."""
        config = self.config
        if not config.text_tokens:
            return None
        tokens = perplexity.text_tokens(self.vlm, config)
        key = keys.key(
            "perplexity", self.vlm.fingerprint, [folder.name for folder in layers], tokens.tolist()
        )

        def build(folder: Path) -> None:
            self._use(allocation, layers)()
            write_json(folder / "losses.json", perplexity.text_losses(self.vlm, config))

        folder = self.store.get("perplexity", key, build, "the perplexity")
        return perplexity.perplexity(
            json.loads((folder / "losses.json").read_text()), tokens.shape[1]
        )
