import json
import logging
from pathlib import Path

import pytest

from luq.config import TrackingConfig
from pipelines.record import RunRecord, from_json
from pipelines.tracking import NoTracker, WandbTracker, make_tracker, summary

GOLDEN = Path(__file__).parents[1] / "golden" / "records"


def golden_record() -> RunRecord:
    (file,) = GOLDEN.glob("*4*.json")
    return from_json(json.loads(file.read_text()))


def test_a_failing_tracker_warns_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def broken(**_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.WARNING):
        WandbTracker(TrackingConfig(), tmp_path).track(golden_record())
    assert caplog.text.count("wandb failed") == 1
    assert "no network" in caplog.text


def test_a_report_that_it_does_not_understand_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        WandbTracker(TrackingConfig(), tmp_path).track_report("x", {}, [], {})
    assert caplog.text.count("wandb failed") == 1


def test_the_summary_is_flat_numbers_of_the_record() -> None:
    record = golden_record()
    flat = summary(record)
    assert flat["score/mean"] == record.mean_score
    assert flat["memory/stored_bytes"] == record.memory.stored_bytes
    assert all(not isinstance(value, dict | list) for value in flat.values())
    for benchmark, score in record.scores.items():
        assert flat[f"score/{benchmark}"] == score.score


def test_none_is_none(tmp_path: Path) -> None:
    assert isinstance(make_tracker(TrackingConfig("none"), tmp_path), NoTracker)
    assert list(tmp_path.iterdir()) == []
