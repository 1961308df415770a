"""What a stage took and made is told for itself, whatever ran inside it."""

from pathlib import Path

from luq.store.store import Store
from pipelines.clock import StageClock
from pipelines.display import Display
from tests.luq.store.notes import Note


class Lines(Display):
    """Remembers what was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[tuple[str, bool, int]] = []

    def stage(self, name: str, seconds: float, cached: bool, made: int) -> None:
        self.stages.append((name, cached, made))


def test_a_stage_inside_a_stage_counts_for_itself(tmp_path: Path) -> None:
    lines = Lines()
    clock = StageClock(lines)
    store = Store(tmp_path, clock)
    clock.store = store
    with clock.stage("outer"):
        store.get(Note("a"))
        with clock.stage("inner"):
            store.get(Note("b"))
            store.get(Note("c"))
    assert lines.stages == [("inner", False, 2), ("outer", False, 1)]
    assert min(clock.seconds.values()) >= 0
    assert clock.cached == {"inner": False, "outer": False}


def test_what_the_store_has_is_said_to_be_from_there(tmp_path: Path) -> None:
    Store(tmp_path).get(Note("a"))
    lines = Lines()
    clock = StageClock(lines)
    clock.store = Store(tmp_path, clock)
    for name in ("quantize", "load"):
        with clock.stage(name):
            clock.store.get(Note("a"))
    assert lines.stages == [("quantize", True, 0), ("load", False, 0)]
