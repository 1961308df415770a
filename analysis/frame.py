"""Records -> one tidy frame: a row per run, a column per number."""

import math
from pathlib import Path

import pandas as pd

from luq import results
from luq.errors import DataError
from luq.results import Record


def row(record: Record) -> dict[str, object]:
    """One record as a flat row. Bits are per weight of the decoder's linears, sizes in bytes, scores in percent."""
    memory, scores, config = record["memory"], record["scores"], record["config"]
    errors = [s["stderr"] for s in scores.values()]
    return {
        "name": record["name"],
        "key": record["key"],
        "model": config["model"]["name"],
        "calibration": config["calibration"]["name"],
        "order": config["order"]["name"],
        "allocation": record["allocation"],
        "k": record["k"],
        "mixed": len(set(record["tiers"])) > 1,
        "uniform_tier": record["tiers"][0] if len(set(record["tiers"])) == 1 else None,
        **{n: memory[n] for n in ("nominal_bits", "stored_bits", "stored_bytes", "rest_bytes", "checkpoint_bytes")},
        "score": record["mean_score"],
        "stderr": math.sqrt(sum(e * e for e in errors)) / max(len(errors), 1),
        "retention": record["mean_retention"],
        "n": sum(s["n"] for s in scores.values()),
        "benchmarks": len(scores),
        "collapsed": sum(bool(s["collapsed"]) for s in scores.values()),
        **fidelity(record),
        "errors": sum(s["errors"] for s in scores.values()),
        "seconds": record["wall_seconds"],
        "finished": record["finished"],
        **{f"score/{name}": s["score"] for name, s in scores.items()},
        **{f"retention/{name}": s["retention"] for name, s in scores.items()},
    }


def fidelity(record: Record) -> dict[str, object]:
    """Means over benchmarks: KL to the 16-bit model (nats per answer token), top-1 agreement, log-likelihood; perplexity."""
    measured = [m for m in record["fidelity"].values() if m["n"]]
    means = {n: sum(m[n][0] for m in measured) / len(measured) if measured else math.nan for n in ("kl", "agreement", "loglik")}
    return means | {"perplexity": record["perplexity"]["value"] if record["perplexity"] else math.nan}


def load(outputs: Path, sweep: str | None = None) -> pd.DataFrame:
    """All runs, or a sweep's, smallest file first; of runs with one name the latest. DataError if there is none."""
    rows = [row(record) for record in results.iterate(outputs, sweep)]
    if not rows:
        where = f"sweep {sweep!r} in {outputs}" if sweep else str(outputs)
        raise DataError(f"no finished run found for {where}: run `luq sweep {sweep or 'NAME'}` first")
    frame = pd.DataFrame(rows).sort_values("finished").drop_duplicates("name", keep="last")
    return frame.sort_values(["stored_bytes", "name"]).reset_index(drop=True)


def against(frame: pd.DataFrame, tier: str = "gptq4") -> pd.DataFrame:
    """The frame with `linears_saved` and `checkpoint_saved`: shares of bytes saved against the run all in `tier`."""
    base = frame[frame["uniform_tier"] == tier]
    frame = frame.copy()
    for column, size in (("linears_saved", "stored_bytes"), ("checkpoint_saved", "checkpoint_bytes")):
        frame[column] = 1 - frame[size] / base[size].iloc[0] if len(base) else math.nan
    return frame
