"""Which records a report is about: those of some sweeps, and baselines of other sweeps."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from luq.errors import DataError
from luq.store import keys
from pipelines import runs_folder
from pipelines.record import RunRecord
from pipelines.runs_folder import Failure

# uniform baselines that every picture should hold
LADDER = ("float16", "gptq8", "gptq4", "gptq3", "gptq2")


class Results(NamedTuple):
    """What an outputs folder holds: records, what could not be used and why, failed runs."""

    records: list[RunRecord]
    problems: list[str]
    failures: list[Failure]


class Baseline(NamedTuple):
    """What a uniform run stands for: a tier of a model that was asked some questions."""

    fingerprint: str
    questions: str
    tier: str


def questions(record: RunRecord) -> str:
    """What two records must share for their scores to be compared."""
    return keys.digest(record.subset, record.split, record.scorer_version, record.prompt_version)


def is_mixed(record: RunRecord) -> bool:
    """Whether the linears are in more than one tier."""
    return len(set(record.tiers)) > 1 or bool(record.other_tiers)


def load(outputs: Path, sweeps: Sequence[str] = ()) -> Results:
    """The records of some sweeps, and uniform baselines of the same models from other sweeps.

    Args:
        outputs: the folder of runs.
        sweeps: their names; none: all records.

    Returns:
        The records. What cannot be read or used is a line in `problems`.

    Raises:
        DataError: there is no record.
    """
    problems: list[str] = []
    records: dict[str, RunRecord] = {}
    failures: list[Failure] = []
    for sweep in sweeps or (None,):
        count = len(records)
        for record in runs_folder.iterate(outputs, sweep, problems):
            if record.scores or record.perplexity is not None:
                records.setdefault(record.key, record)
            else:
                folder = runs_folder.record_file(outputs, record.key).parent
                problems.append(f"{folder}: the record has no scores: delete it and run again")
        failures += runs_folder.failures(outputs, sweep, problems)
        # a sweep without a folder was never started; one with a folder has said what it lacks
        nothing_new = len(records) == count
        if sweep and nothing_new and not (outputs / "sweeps" / sweep).is_dir():
            problems.append(f"no sweep {sweep!r} in {outputs}: run `luq sweep {sweep}` first")
    if not records:
        raise DataError(_nothing_message(outputs, sweeps, problems))
    chosen = _latest(records.values(), problems)
    if sweeps:
        chosen += baselines(outputs, chosen)
    return Results(chosen, problems, failures)


def _nothing_message(outputs: Path, sweeps: Sequence[str], problems: list[str]) -> str:
    place = str(outputs)
    if sweeps:
        place = f"sweep {' or '.join(repr(sweep) for sweep in sweeps)} in {outputs}"
    command = f"luq sweep {sweeps[0] if sweeps else 'NAME'}"
    lines = [f"no finished run found for {place}: run `{command}` first", *problems]
    return "\n  ".join(lines)


def _latest(records: Iterable[RunRecord], problems: list[str]) -> list[RunRecord]:
    """Of runs of one sweep, name, model and question set the latest.

    The earlier ones were made with other settings: their keys differ.
    """
    latest: dict[tuple[str, str, str, str], RunRecord] = {}
    for record in sorted(records, key=lambda record: record.finished):
        place = (record.sweep, record.name, record.model_fingerprint, questions(record))
        if place in latest:
            older = latest[place].key
            problems.append(
                f"sweep {record.sweep}, {record.name}: "
                f"run {older} is older than {record.key} and left out"
            )
        latest[place] = record
    return list(latest.values())


def baselines(outputs: Path, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs of other sweeps with one tier of the ladder in every layer, which these records lack."""
    known_keys = {record.key for record in records}
    studied = {(record.model_fingerprint, questions(record)) for record in records}
    present = {_baseline(record) for record in records if not is_mixed(record)}
    candidates = []
    for record in runs_folder.iterate(outputs, problems=[], skip=known_keys):
        on_ladder = not is_mixed(record) and record.tiers[0] in LADDER
        comparable = (record.model_fingerprint, questions(record)) in studied
        if on_ladder and comparable and record.scores:
            candidates.append(record)
    # one run per tier, the best baseline of those there are
    added = []
    for record in sorted(candidates, key=_baseline_rank):
        baseline = _baseline(record)
        if baseline not in present:
            present.add(baseline)
            added.append(record)
    return added


def _baseline(record: RunRecord) -> Baseline:
    return Baseline(record.model_fingerprint, questions(record), record.tiers[0])


def _baseline_rank(record: RunRecord) -> tuple[bool, bool, float]:
    """Of several runs of one tier the first is the baseline.

    What is all high tier comes first, then what saw its own activations while it was quantized,
    then the latest.
    """
    quantizer = record.config.quantizer
    is_low = record.tiers[0] != quantizer.high
    saw_others = quantizer.propagation != "exact"
    return is_low, saw_others, -record.finished
