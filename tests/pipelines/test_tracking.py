import logging
from pathlib import Path

import pytest

from luq.config import TrackingConfig
from pipelines.tracking import NoTracker, WandbTracker, make_tracker


def test_a_failing_tracker_warns_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def broken(**_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(wandb, "init", broken)
    order = {"name": "o", "modality": "all"}
    record = {"config": {"model": {"name": "m"}, "calibration": {"name": "c"}, "order": order}}
    record |= {"sweep": "s", "name": "n", "key": "k"}
    with caplog.at_level(logging.WARNING):
        WandbTracker(TrackingConfig(), tmp_path).track(record)
    assert caplog.text.count("wandb failed") == 1
    assert "no network" in caplog.text


def test_a_record_that_it_does_not_understand_fails_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        WandbTracker(TrackingConfig(), tmp_path).track({"config": {}})
        WandbTracker(TrackingConfig(), tmp_path).track_report("x", {}, [], {})
    assert caplog.text.count("wandb failed") == 2


def test_none_is_none(tmp_path: Path) -> None:
    assert isinstance(make_tracker(TrackingConfig("none"), tmp_path), NoTracker)
    assert list(tmp_path.iterdir()) == []
