"""What is seen of long work: a line from time to time where no bar is seen."""

import time

import pytest

from pipelines import console
from pipelines.clock import StageClock
from pipelines.display import Activity, Display


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed, a line each."""
    printed: list[str] = []
    monkeypatch.setattr(console.out, "print", lambda text, **_: printed.append(str(text).strip()))
    return printed


def wait_for(lines: list[str], count: int) -> None:
    for _ in range(500):
        if len(lines) >= count:
            return
        time.sleep(0.01)


def test_an_estimate_is_of_the_steps_that_are_left() -> None:
    activity = Activity("gqa", total=160, done=40, begin=100.0)
    assert activity.describe(now=400.0) == "gqa 40 of 160, 5 min, about 15 min left"
    assert Activity("gqa", total=160, begin=0.0).describe(now=9.0) == "gqa 0 of 160, 9 s"
    assert Activity("load", begin=0.0).describe(now=61.0) == "load, 61 s"


def test_without_a_terminal_long_work_is_heard_of(lines: list[str]) -> None:
    display = Display(heartbeat=0.02)
    with display.working("evaluate"), display.bar("gqa", 10) as advance:
        advance("", 4)
        wait_for(lines, 2)
    assert len(lines) >= 2
    assert lines[0].startswith("... evaluate, 0 s: gqa 4 of 10, 0 s, about 0 s left")


def test_nothing_is_heard_of_short_work_and_none_of_what_has_ended(lines: list[str]) -> None:
    display = Display(heartbeat=0.5)
    for _ in range(3):
        with display.working("a"):
            pass
    time.sleep(0.7)
    assert lines == []


def test_a_line_of_a_stage_counts_as_a_sign_of_life(lines: list[str]) -> None:
    display = Display(heartbeat=1.0)
    with display.working("a"):
        for _ in range(15):
            time.sleep(0.1)
            display.stage("b", 0.1, cached=False, made=1)
    assert not [line for line in lines if line.startswith("...")]


def test_a_stage_is_announced_when_it_begins(lines: list[str]) -> None:
    clock = StageClock(Display())
    clock.announcements["load"] = "loading a model, 14.13 GB"
    with clock.stage("load"):
        assert lines == ["loading a model, 14.13 GB"]
