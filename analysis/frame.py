"""Records -> tidy frames: a row per run x benchmark, a row per run, and a row per plan (its seeds together).

Bits are per weight of the decoder's linears, sizes in bytes, scores in percent, retention a share of the 16-bit score.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from luq.errors import DataError
from luq.store import keys
from pipelines import results
from pipelines.results import Record

MEAN = "mean"  # the benchmark that stands for all of them
LADDER = (
    "float16",
    "gptq8",
    "gptq4",
    "gptq3",
    "gptq2",
)  # uniform baselines that every picture should hold
BASE = "gptq4"  # what memory is compared with
SIZES = (
    "nominal_bits",
    "stored_bits",
    "stored_bytes",
    "rest_bytes",
    "checkpoint_bytes",
    "resident_bytes",
    "peak_bytes",
)


class Results(NamedTuple):
    """What an outputs folder holds: records, what could not be used and why, and runs that failed."""

    records: list[Record]
    problems: list[str]
    failures: list[dict[str, Any]]


class Study(NamedTuple):
    """Records that may be compared: one checkpoint, the same questions. `runs`, `scores`, `plans` as in this module."""

    name: str
    records: list[Record]
    runs: pd.DataFrame
    scores: pd.DataFrame
    plans: pd.DataFrame

    @property
    def benchmarks(self) -> list[str]:
        return list(self.records[0]["scores"])


def seedless(value: Any) -> Any:
    """A config without its seeds: runs that differ in nothing else are one plan (if they were asked the same questions)."""
    return (
        {k: seedless(v) for k, v in value.items() if k != "seed"}
        if isinstance(value, dict)
        else value
    )


def order_label(config: dict[str, Any]) -> str:
    order = config["order"]
    return (
        order["name"]
        if order["modality"] == "all"
        else f"{order['name']} ({order['modality']} tokens)"
    )


def short(name: str) -> str:
    """A run's name without its seeds and without the groups of its settings: `low=gptq2 k=4`."""
    words = (w.partition("=") for w in name.split() if not w.partition("=")[0].endswith("seed"))
    return " ".join(f"{key.rpartition('.')[2]}{sign}{value}" for key, sign, value in words) or name


def questions(record: Record) -> str:
    """What two records must share for their scores to be compared."""
    return keys.key(
        record["subset"], record["split"], record["scorer_version"], record["prompt_version"]
    )


def run_row(record: Record) -> dict[str, Any]:
    """A run as a flat row."""
    memory, scores, config = record["memory"], record["scores"], record["config"]
    tiers = record["tiers"]
    return {
        "sweep": record["sweep"],
        "name": record["name"],
        "label": short(record["name"]),
        "key": record["key"],
        "plan": keys.key(seedless(config)),
        "answers": keys.key(record["artefacts"]["evaluate"]),
        "command": record.get("command", ""),
        "model": config["model"]["name"],
        "fingerprint": record["model_fingerprint"],
        "questions": questions(record),
        "calibration": config["calibration"]["name"],
        "alpha": config["calibration"]["alpha"] if config["calibration"]["name"] != "text" else 0.0,
        "order": order_label(config),
        "rule": config["allocation"]["name"],
        "low_tier": config["quantizer"]["low"],
        "high_tier": config["quantizer"]["high"],
        "propagation": config["quantizer"]["propagation"],
        "clusters": config["profile"]["clusters"],
        "seed": config["seed"],
        "allocation": record["allocation"],
        "k": record["k"],
        "layers": len(tiers),
        "mixed": len(set(tiers)) > 1,
        "tier": tiers[0] if len(set(tiers)) == 1 else "",
        **{name: memory[name] for name in SIZES},
        "score": record["mean_score"],
        "stderr": math.sqrt(sum(s["stderr"] ** 2 for s in scores.values())) / max(len(scores), 1),
        "float_score": record["float_mean_score"],
        "retention": math.nan if record["mean_retention"] is None else record["mean_retention"],
        "n": sum(s["n"] for s in scores.values()),
        "benchmarks": len(scores),
        "collapsed": sum(bool(s["collapsed"]) for s in scores.values()),
        "errors": sum(s["errors"] for s in scores.values()),
        **fidelity(record),
        "seconds": record["wall_seconds"],
        "finished": record["finished"],
    }


def fidelity(record: Record) -> dict[str, float]:
    """Means over benchmarks: KL to the 16-bit model (nats per answer token), top-1 agreement, log-likelihood; perplexity."""
    measured = [m for m in record["fidelity"].values() if m["n"]]
    means = {
        n: sum(m[n][0] for m in measured) / len(measured) if measured else math.nan
        for n in ("kl", "agreement", "loglik")
    }
    return means | {
        "perplexity": record["perplexity"]["value"] if record["perplexity"] else math.nan
    }


def score_rows(record: Record) -> list[dict[str, Any]]:
    """A run's benchmarks, a row each, and their mean."""
    rows = []
    for benchmark, s in record["scores"].items():
        measured = record["fidelity"].get(benchmark)
        rows.append(
            {name: s[name] for name in ("score", "stderr", "n", "float_score", "errors")}
            | {
                "key": record["key"],
                "benchmark": benchmark,
                "collapsed": bool(s["collapsed"]),
                "why": s["collapsed"],
            }
            | {"retention": math.nan if s["retention"] is None else s["retention"]}
            | {"kl": measured["kl"][0] if measured and measured["n"] else math.nan}
        )
    return rows


def load(outputs: Path, sweeps: Sequence[str] = ()) -> Results:
    """The records of some sweeps (or all), and uniform baselines of the same model and questions from other sweeps.

    A DataError if there is none; what cannot be read becomes a line in `problems`.
    """
    problems: list[str] = []
    found: dict[str, Record] = {}
    for sweep in sweeps or (None,):
        before = len(found)
        for record in results.iterate(outputs, sweep, problems):
            if wrong := lacks(record):
                problems.append(
                    f"{outputs / 'runs' / str(record.get('key'))}: {wrong}: delete it and run again"
                )
            else:
                found.setdefault(record["key"], record)
        if len(found) == before and sweep and not (outputs / "sweeps" / sweep).is_dir():
            problems.append(f"no sweep {sweep!r} in {outputs}: run `luq sweep {sweep}` first")
    if not found:
        where = f"sweep {' or '.join(map(repr, sweeps))} in {outputs}" if sweeps else str(outputs)
        told = "".join(f"\n  {line}" for line in problems)
        raise DataError(
            f"no finished run found for {where}: run `luq sweep {sweeps[0] if sweeps else 'NAME'}` first{told}"
        )
    failures = [entry for sweep in sweeps or (None,) for entry in results.failures(outputs, sweep)]
    chosen = list(_latest(found.values(), problems))
    return Results([*chosen, *(baselines(outputs, chosen) if sweeps else ())], problems, failures)


def lacks(record: Record) -> str:
    """What keeps a record from being reported; empty if nothing does."""
    try:
        run_row(record)
        score_rows(record)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        return f"the record is incomplete ({type(error).__name__}: {error})"
    return "" if record["scores"] else "the record has no scores"


def _latest(records: Iterable[Record], problems: list[str]) -> Iterable[Record]:
    """Of runs of one sweep, name, model and question set the latest: the others were made with other settings."""
    kept: dict[tuple[str, ...], Record] = {}
    for record in sorted(records, key=lambda r: r["finished"]):
        place = (record["sweep"], record["name"], record["model_fingerprint"], questions(record))
        if place in kept:
            problems.append(
                f"sweep {place[0]}, {place[1]}: run {kept[place]['key']} is older than {record['key']} and left out"
            )
        kept[place] = record
    return kept.values()


def baselines(outputs: Path, records: Sequence[Record]) -> list[Record]:
    """Runs of other sweeps with one tier of the ladder in every layer that these records lack: what is all high tier first."""
    known = {record["key"] for record in records}
    wanted = {(r["model_fingerprint"], questions(r)) for r in records}
    have = {
        (r["model_fingerprint"], questions(r), r["tiers"][0])
        for r in records
        if len(set(r["tiers"])) == 1
    }
    added: list[Record] = []
    others = (
        r for r in results.iterate(outputs, None, []) if r["key"] not in known and not lacks(r)
    )
    for record in sorted(others, key=_unlike_others):
        place = (record["model_fingerprint"], questions(record), record["tiers"][0])
        if (
            place[:2] in wanted
            and place not in have
            and set(record["tiers"]) <= {place[2]} <= set(LADDER)
        ):
            have.add(place)
            added.append(record)
    return added


def _unlike_others(record: Record) -> tuple[bool, bool, float]:
    """Sorts what is all high tier, and saw its own activations while it was quantized, before what is not; then the latest."""
    quantizer = record["config"]["quantizer"]
    return (
        record["tiers"][0] != quantizer["high"],
        quantizer["propagation"] != "exact",
        -record["finished"],
    )


def runs(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run, smallest file first, with `linears_saved` and `checkpoint_saved` against the run all in 4-bit GPTQ."""
    frame = (
        pd.DataFrame([run_row(record) for record in records])
        .sort_values(["stored_bytes", "name"])
        .reset_index(drop=True)
    )
    base = frame[frame["tier"] == BASE]
    for column, size in (
        ("linears_saved", "stored_bytes"),
        ("checkpoint_saved", "checkpoint_bytes"),
    ):
        frame[column] = 1 - frame[size] / base[size].iloc[0] if len(base) else math.nan
    return frame


def scores(records: Iterable[Record], runs: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame: a row per run x benchmark."""
    own = {
        "score",
        "stderr",
        "n",
        "float_score",
        "errors",
        "collapsed",
        "retention",
        "kl",
        "benchmarks",
        "agreement",
        "loglik",
    }
    told = pd.DataFrame([row for record in records for row in score_rows(record)])
    return runs[[c for c in runs.columns if c not in own]].merge(
        told, on="key", validate="one_to_many"
    )


def studies(loaded: Results) -> list[Study]:
    """What may be compared together: most runs first. Several are said in `problems`."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in loaded.records:
        config = record["config"]
        groups.setdefault(
            (config["model"]["name"], record["model_fingerprint"], questions(record)), []
        ).append(record)
    if len(groups) > 1:
        named = ", ".join(
            f"{name} {print_} ({len(g)} runs)" for (name, print_, _), g in groups.items()
        )
        loaded.problems.append(
            f"runs of different models or questions are not compared with each other: {named}"
        )
    found = []
    for (name, _, _), records in sorted(groups.items(), key=lambda item: -len(item[1])):
        table = runs(records)
        found.append(Study(name, records, table, scores(records, table), plans(table)))
    return found


def plans(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per plan: the means over its `seeds` runs, its score's range over them, and the first one's command.

    `answers` is the same for plans that gave the same answers, such as two orders that agree on the first k layers.
    """
    grouped = runs.groupby("plan", sort=False)
    numbers = [
        *SIZES,
        "score",
        "stderr",
        "retention",
        "kl",
        "agreement",
        "perplexity",
        "linears_saved",
        "checkpoint_saved",
    ]
    table = grouped.first().assign(**{c: grouped[c].mean() for c in numbers})
    table = table.assign(
        seeds=grouped.size(), lowest=grouped["score"].min(), highest=grouped["score"].max()
    )
    table["answers"] = grouped["answers"].agg(lambda found: " ".join(sorted(set(found))))
    # a tier alone whose layers saw another model's activations while they were quantized is not what others call by its name
    own = (
        (table["propagation"] == "exact")
        | (table["tier"] == "float16")
        | (table["propagation"].nunique() == 1)
    )
    own |= (table["propagation"] == "high") & (
        table["tier"] == table["high_tier"]
    )  # the same arithmetic as exact
    alone = table["tier"].where(own, table["tier"] + ", propagation " + table["propagation"])
    table["label"] = alone.where(table["tier"] != "", table["label"])
    return table.reset_index().sort_values(["checkpoint_bytes", "label"]).reset_index(drop=True)
