"""What a person may want to type after a run or a sweep."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.conf_folder import default_outputs
from pipelines.record import RunRecord

SHORT_KEY = 8  # characters of a key that tell runs apart


class Step(NamedTuple):
    """A command, and what it does."""

    command: str
    meaning: str


def after_runs(records: Sequence[RunRecord]) -> list[Step]:
    """The report, the packed model of the best run, and its comparison with the smallest other.

    Args:
        records: of the runs that a command finished, at least one; of one group.
    """
    best = max(records, key=lambda record: record.mean_score)
    options = _outputs_option(best)
    key = best.key[:SHORT_KEY]
    subject = "the best one" if len(records) > 1 else "it"
    steps = [
        Step(f"luq report {shlex.quote(best.sweep)}{options}", "one page over its group"),
        Step(f"luq export {key} DIR{options}", f"{subject} as a folder that transformers loads"),
    ]
    other_records = [record for record in records if record.key != best.key]
    if other_records:
        smallest = min(other_records, key=lambda record: record.memory.checkpoint_bytes)
        command = f"luq compare {key} {smallest.key[:SHORT_KEY]}{options}"
        steps.append(Step(command, "the best and the smallest other, by question"))
    else:
        steps.append(Step(f"luq compare {key} KEY{options}", "with another run, by question"))
    return steps


def _outputs_option(record: RunRecord) -> str:
    """What names the folder of outputs; empty where commands look anyway."""
    outputs = Path(record.config.paths.outputs)
    return "" if outputs == default_outputs() else f" --outputs {shlex.quote(str(outputs))}"
