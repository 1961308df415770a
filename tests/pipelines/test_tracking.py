"""Trackers follow a run and mirror its record, and never fail it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from luq.config import TrackingConfig
from pipelines.clock import StageClock
from pipelines.display import Display
from pipelines.record import RunRecord, from_json
from pipelines.tracking import (
    LiveRun,
    NoTracker,
    RunStart,
    WandbTracker,
    make_tracker,
    summary,
)
from tests.pipelines.command import luq

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


class FakeRun:
    """What a W&B run is told."""

    def __init__(self, folder: Path):
        self.dir = str(folder)
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[Any] = []
        self.exit_codes: list[int] = []
        self.is_broken = False

    def __enter__(self) -> "FakeRun":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def log(self, values: dict[str, Any]) -> None:
        if self.is_broken:
            raise ConnectionError("no network")
        self.logged.append(values)

    def save(self, *_: object, **__: object) -> None:
        assert json.loads((Path(self.dir) / "result.json").read_text())["schema"] == 4

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int = 0) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """The run that `wandb.init` opens."""
    import wandb

    run = FakeRun(tmp_path)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    return run


def live_run(tmp_path: Path) -> LiveRun:
    record = golden_record()
    tracker = make_tracker(TrackingConfig("wandb_offline"), tmp_path)
    return tracker.live(RunStart(record.key, record.name, record.config))


def test_stages_are_seen_while_the_run_goes_on(tmp_path: Path, fake: FakeRun) -> None:
    live = live_run(tmp_path)
    clock = StageClock(Display())
    clock.watchers.append(live)
    with clock.stage("quantize"), clock.bar("quantize", 4) as advance:
        advance("layer 0", 1)
        advance("layer 1", 1)  # within the same seconds: one point of the curve is enough
    assert fake.logged[0] == {"progress/quantize": 0.25}
    assert fake.logged[1]["seconds/quantize"] >= 0
    assert fake.exit_codes == []
    assert live.finish(golden_record(), None) == ""
    assert fake.summary["score/mean"] == golden_record().mean_score
    assert fake.exit_codes == [0]


def test_a_failed_run_is_closed_as_one(tmp_path: Path, fake: FakeRun) -> None:
    live_run(tmp_path).fail()
    assert fake.exit_codes[0] == 1


def test_a_mirror_that_breaks_on_the_way_says_so_once(
    tmp_path: Path, fake: FakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    live = live_run(tmp_path)
    fake.is_broken = True
    with caplog.at_level(logging.WARNING):
        live.stage("load", 1.0, 0)
        live.stage("quantize", 1.0, 0)
    assert live.finish(golden_record(), None) == "ConnectionError: no network"
    assert caplog.text.count("wandb failed") == 1


def test_the_packed_model_is_an_artifact_where_it_is_asked_for(
    tmp_path: Path, fake: FakeRun
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "model.safetensors").write_bytes(b"weights")
    assert live_run(tmp_path).finish(golden_record(), packed) == ""
    (artifact,) = fake.artifacts
    assert artifact.type == "model"
    assert list(artifact.manifest.entries) == ["model.safetensors"]
    live_run(tmp_path).finish(golden_record(), None)
    assert len(fake.artifacts) == 1


def agents_command(parameters: dict[str, Any]) -> list[str]:
    """The command that `wandb agent` starts for values that the server hands out."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    text = (Path(__file__).parents[2] / "docs" / "wandb_sweep.yaml").read_text()
    sweep = yaml.safe_load(text)
    assert parameters.keys() == sweep["parameters"].keys()
    handed_out = {name: {"value": value} for name, value in parameters.items()}
    words = {"env": ["/usr/bin/env"], **create_sweep_command_args({"args": handed_out})}
    command: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        command += words[word[2:-1]] if word.startswith("${") else [word]
    return command


def test_the_command_of_a_wandb_agent_is_a_run_of_its_values() -> None:
    values = {"allocation.k": 3, "quantizer.low": "gptq2", "calibration": "text"}
    program, *words = agents_command(values)
    assert program == "/usr/bin/env"
    assert words[:2] == ["luq", "run"]
    shown = luq("run", "--cfg", "job", *words[2:])
    config = yaml.safe_load(shown.stdout)
    assert config["allocation"]["k"] == 3
    assert config["quantizer"]["low"] == "gptq2"
    assert config["calibration"]["name"] == "text"
    assert config["tracking"]["name"] == "wandb"
    assert config["group"] == "hunt"


def test_under_an_agent_the_servers_id_is_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B hands out the id with the values, and lets no other one stand."""
    import wandb

    wandb.teardown()  # what it has read of the environment so far
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "handed-out")
    live = live_run(tmp_path)
    assert live.finish(golden_record(), None) == ""
    monkeypatch.undo()
    wandb.teardown()
    assert [file.name for file in tmp_path.rglob("*.wandb")] == ["run-handed-out.wandb"]
