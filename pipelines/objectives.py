"""What a run is worth: the numbers that it returns to whoever searches for good settings.

`objective=[retention,checkpoint_bytes]` names them. Hydra hands them to its sweeper as what the
job returned: one number, or a list of several in the order of their names.
"""

import math
from collections.abc import Callable, Sequence

from pipelines.record import RunRecord

Values = float | list[float]
MAXIMISED = ("retention", "score")  # all others are to be minimised


def mean_divergence(record: RunRecord) -> float | None:
    """KL to the 16-bit model, in nats per answer token, over the benchmarks that have one."""
    divergences = [item.kl.mean for item in record.fidelity.values() if item.kl]
    return sum(divergences) / len(divergences) if divergences else None


def _perplexity(record: RunRecord) -> float | None:
    return None if record.perplexity is None else record.perplexity.value


READERS: dict[str, Callable[[RunRecord], float | None]] = {
    "retention": lambda record: record.mean_retention,
    "score": lambda record: record.mean_score,
    "kl": mean_divergence,
    "perplexity": _perplexity,
    "checkpoint_bytes": lambda record: record.memory.checkpoint_bytes,
    "stored_bytes": lambda record: record.memory.stored_bytes,
    "stored_bits": lambda record: record.memory.stored_bits,
    "nominal_bits": lambda record: record.memory.nominal_bits,
}


def objective_values(names: Sequence[str], record: RunRecord | None) -> Values:
    """The values of a run's objectives.

    Args:
        names: of `READERS`; those of the config.
        record: of the run; None if it failed.

    Returns:
        The number of one name, or a list for several; NaN for what a run does not have.
    """
    values: list[float] = []
    for name in names:
        value = None if record is None else READERS[name](record)
        values.append(math.nan if value is None else float(value))
    return values[0] if len(values) == 1 else values
