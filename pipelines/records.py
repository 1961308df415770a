"""`luq rescore`: the kept answers of finished runs scored again. No model is loaded."""

from pathlib import Path
from typing import Any

from luq import keys, results
from luq.evaluation import answers
from luq.store import Store, write_json
from pipelines import console
from pipelines.evaluation import Scored
from pipelines.run import score_part


def rescore(outputs: Path, sweep: str | None) -> int:
    """Score the kept answers of a sweep's runs (or of all) again; returns how many records changed."""
    store, changed, seen = Store(outputs / "store"), 0, 0
    for record in results.iterate(outputs, sweep):
        parts: list[dict[str, Scored]] = [
            {benchmark: Scored.read(store, benchmark, key) for benchmark, key in record["artefacts"][stage].items()}
            for stage in (answers.REPORT, answers.FLOAT)
        ]
        fresh: dict[str, Any] = score_part(*parts)
        seen += 1
        if any(record[name] != value for name, value in fresh.items()):
            changed += 1
            console.out.print(f"{record['name']}: mean {record['mean_score']:.2f} -> {fresh['mean_score']:.2f}")
            file = outputs / "runs" / record["key"] / results.FILE
            with store.lock(f"run-{keys.key(record['config'])}", f"the run {record['name']}"):
                write_json(file, results.read(file) | fresh)
    console.out.print(f"{seen} records scored again from kept answers, {changed} changed")
    return changed
