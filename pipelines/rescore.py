"""`luq rescore`: the kept answers of finished runs scored again, without a model."""

from dataclasses import replace
from pathlib import Path

from luq.evaluation import scorers
from luq.evaluation.answers import ANSWERS
from luq.evaluation.predictions import read_answers
from luq.store.sealed import sealed
from luq.store.store import Store, write_json
from pipelines import console, runs_folder
from pipelines.record import RunRecord, to_json
from pipelines.run import config_key
from pipelines.scores import Scored, score_part, scored


def rescore(outputs: Path, sweep: str | None) -> int:
    """Score the kept answers of a sweep's runs (or of all) again; returns how many changed."""
    store = Store(outputs / "store")
    changed = 0
    seen = 0
    for record in runs_folder.iterate(outputs, sweep):
        seen += 1
        fresh = _rescored(store, record)
        if fresh == record:
            continue
        changed += 1
        console.out.print(
            f"{record.name}: mean {record.mean_score:.2f} -> {fresh.mean_score:.2f}", markup=False
        )
        lock = store.lock(f"run-{config_key(record.config)}", f"the run {record.name}")
        with lock:
            # its own name and sweep, not those under which another sweep knows it
            file = runs_folder.record_file(outputs, record.key)
            write_json(file, sealed(to_json(_rescored(store, runs_folder.read(file)))))
    console.out.print(f"{seen} records scored again from kept answers, {changed} changed")
    return changed


def _rescored(store: Store, record: RunRecord) -> RunRecord:
    scores = _scores(store, record.artefacts.answers)
    reference = _scores(store, record.artefacts.float_answers)
    part = score_part(scores, reference)
    return replace(record, scorer_version=scorers.VERSION, **part._asdict())


def _scores(store: Store, answers: dict[str, str]) -> dict[str, Scored]:
    scores: dict[str, Scored] = {}
    for benchmark, key in answers.items():
        rows = read_answers(store.verify("evaluation", key) / ANSWERS)
        scores[benchmark] = scored(benchmark, rows, key)
    return scores
