"""Numbers as people read them."""


def human(count: float) -> str:
    """Bytes for people: 12 B, 1.50 kB, 2.85 MB, 14.13 GB."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.2f} {unit}"
    return f"{count / 1000:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 4 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"
