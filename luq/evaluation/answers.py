"""Kept answers: scored again, and question by question. Needs no model, no torch, no dataset."""

from luq import registry
from luq.evaluation import scorers
from luq.evaluation.compare import Units
from luq.evaluation.predictions import Row, read_rows
from luq.evaluation.scorers.summary import Summary
from luq.questions.subsets import unit_of
from luq.store.store import Store
from pipelines.results import Record

ANSWERS, FIDELITY = "answers.jsonl", "fidelity.jsonl"
REPORT, FLOAT = (
    "evaluate",
    "evaluate 16-bit",
)  # whose answers: the run's own, or those of its 16-bit model


def summarise(benchmark: str, rows: list[Row]) -> Summary:
    """The benchmark's official metrics and its score in percent. A row with an error counts as wrong."""
    process, summary = (
        scorers.process_of(benchmark),
        registry.load("benchmark", benchmark).summarise,
    )
    wrong = {"score": 0.0, "yes": 0.0}
    items = [
        (row["doc"], wrong if "error" in row else process(row["doc"], [row["text"]]))
        for row in rows
    ]
    found: Summary = summary(items)
    return found


def units(benchmark: str, rows: list[Row]) -> Units:
    """Unit -> its value in [0, 1] and its weight in the score, for comparisons question by question."""
    summary = summarise(benchmark, rows)
    names = list(dict.fromkeys(unit_of(benchmark, row["id"], row["doc"]) for row in rows))
    return {name: (v, w) for name, v, w in zip(names, summary.units, summary.weights, strict=True)}


def scores(store: Store, record: Record, whose: str = REPORT) -> dict[str, Units]:
    """Benchmark -> the units of a record's kept answers; a StoreError if they are not there any more."""
    kept = record["artefacts"][whose].items()
    return {
        benchmark: units(benchmark, read_rows(store.verify("evaluation", key) / ANSWERS))
        for benchmark, key in kept
    }


def divergences(store: Store, record: Record) -> dict[str, Units]:
    """Benchmark -> question -> its KL to the 16-bit model in nats per answer token, with weight 1."""
    found: dict[str, Units] = {}
    for benchmark, measured in record["fidelity"].items():
        rows = read_rows(store.verify("fidelity", measured["key"]) / FIDELITY)
        found[benchmark] = {str(row["id"]): (row["kl"], 1.0) for row in rows}
    return found
