"""`luq rescore`: the kept answers of finished runs scored again, without a model."""

from dataclasses import replace
from pathlib import Path

from luq.errors import ConfigError, LuqError, StoreError
from luq.evaluation import scorers
from luq.evaluation.answers import Scored, read_kept, scored
from luq.store.sealed import sealed
from luq.store.store import Store, write_json
from pipelines import console, runs_folder
from pipelines.record import RunRecord, to_json
from pipelines.run import config_key
from pipelines.scores import score_part


def rescore(outputs: Path, sweep: str | None) -> int:
    """Score the kept answers of a sweep's runs (or of all) again.

    Returns:
        How many records changed.

    Raises:
        ConfigError: the sweep has no runs, or there are none at all.
        StoreError: some records or answers cannot be read. The others were scored before.
    """
    if sweep is not None:
        runs_folder.check_sweep(outputs, sweep)
    store = Store(outputs / "store")
    changed = 0
    count = 0
    problems: list[str] = []
    for record in runs_folder.iterate(outputs, sweep, problems):
        count += 1
        try:
            fresh = _rescored(store, record)
        except LuqError as error:
            problems.append(f"{record.name}: {error}")
            continue
        if fresh == record:
            continue
        changed += 1
        console.out.print(f"{record.name}: mean {record.mean_score:.2f} -> {fresh.mean_score:.2f}")
        lock = store.lock(f"run-{config_key(record.config)}", f"the run {record.name}")
        with lock:
            # its own name and sweep, not those under which another sweep knows it
            file = runs_folder.record_file(outputs, record.key)
            write_json(file, sealed(to_json(_rescored(store, runs_folder.read(file)))))
    console.out.print(f"{count} records scored again from kept answers, {changed} changed")
    if problems:
        raise StoreError("not scored again: " + "\n  ".join(problems))
    if count == 0:
        raise ConfigError(f"{outputs} holds no records: run `luq run`, or give --outputs")
    return changed


def _rescored(store: Store, record: RunRecord) -> RunRecord:
    scores = _scores(store, record.artefacts.answers)
    reference = _scores(store, record.artefacts.float_answers)
    part = score_part(scores, reference, record.perplexity)
    return replace(record, scorer_version=scorers.VERSION, **part._asdict())


def _scores(store: Store, answers: dict[str, str]) -> dict[str, Scored]:
    scores: dict[str, Scored] = {}
    for benchmark, key in answers.items():
        stored_answers = read_kept(store.verify("evaluation", key))
        scores[benchmark] = scored(benchmark, stored_answers, key)
    return scores
