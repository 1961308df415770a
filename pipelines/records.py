"""What a record says of the scores, and `luq rescore`: the kept answers of finished runs scored again, without a model."""

from pathlib import Path
from typing import Any

from luq.evaluation import scorers
from luq.evaluation.scorers.summary import mean
from luq.store import keys
from luq.store.store import Store, write_json
from pipelines import console, results
from pipelines.evaluation import Scored


def score_entry(scored: Scored, reference: Scored) -> dict[str, Any]:
    """One benchmark's part of the record; a 16-bit score of zero gives no retention."""
    score = scored.summary
    return {
        "score": score.score,
        "stderr": score.stderr,
        "n": score.n,
        "metrics": score.metrics,
        "collapsed": scored.collapsed,
        "errors": scored.errors,
        "float_score": reference.summary.score,
        "retention": score.score / reference.summary.score if reference.summary.score else None,
    }


def score_part(scores: dict[str, Scored], reference: dict[str, Scored]) -> dict[str, Any]:
    """What a record says of the scores; `luq rescore` makes it anew."""
    entries = {
        benchmark: score_entry(scored, reference[benchmark]) for benchmark, scored in scores.items()
    }
    # in one order, since a record that is read has them sorted: a mean's last bit depends on it
    ours, theirs = (
        mean([entries[name][value] for name in sorted(entries)])
        for value in ("score", "float_score")
    )
    return {
        "scores": entries,
        "scorer_version": scorers.VERSION,
        "mean_score": ours,
        "float_mean_score": theirs,
        "mean_retention": ours / theirs if theirs else None,
    }


def rescore(outputs: Path, sweep: str | None) -> int:
    """Score the kept answers of a sweep's runs (or of all) again; returns how many records changed."""
    store, changed, seen = Store(outputs / "store"), 0, 0
    for record in results.iterate(outputs, sweep):
        parts: list[dict[str, Scored]] = [
            {
                benchmark: Scored.read(store, benchmark, key)
                for benchmark, key in record["artefacts"][stage].items()
            }
            for stage in ("evaluate", "evaluate 16-bit")
        ]
        fresh: dict[str, Any] = score_part(*parts)
        seen += 1
        if any(record[name] != value for name, value in fresh.items()):
            changed += 1
            console.out.print(
                f"{record['name']}: mean {record['mean_score']:.2f} -> {fresh['mean_score']:.2f}"
            )
            file = outputs / "runs" / record["key"] / results.FILE
            with store.lock(f"run-{keys.key(record['config'])}", f"the run {record['name']}"):
                write_json(file, results.read(file) | fresh)
    console.out.print(f"{seen} records scored again from kept answers, {changed} changed")
    return changed
