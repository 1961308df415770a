"""Records through W&B: what the tracker leaves in an offline run is what a report reads back."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import frame, wandb_records
from analysis.loading import load
from luq.config import TrackingConfig
from luq.errors import DataError
from luq.store.sealed import sealed
from pipelines import runs_folder
from pipelines.record import RunRecord
from pipelines.tracking import WandbTracker
from tests.analysis.synthetic import ladder, mixed


class Api:
    """As much of wandb.Api as is used, over the files of offline runs."""

    def __init__(self, runs: dict[str, Path | None], groups: dict[str, str]):
        self.files = runs
        self.groups = groups
        self.downloads: list[str] = []

    def runs(self, project: str, filters: dict[str, Any]) -> list[SimpleNamespace]:
        groups = filters.get("group", {}).get("$in")
        chosen = [key for key in self.files if groups is None or self.groups[key] in groups]
        return [self._run(key) for key in chosen]

    def _run(self, key: str) -> SimpleNamespace:
        def file(name: str) -> SimpleNamespace:
            def download(root: str, replace: bool) -> Any:
                self.downloads.append(key)
                assert name == "result.json"
                source = self.files[key]
                if source is None:
                    raise FileNotFoundError(key)
                return source.open()

            return SimpleNamespace(download=download)

        return SimpleNamespace(
            id=key,
            name=f"run {key}",
            group=self.groups[key],
            job_type="run",
            state="finished",
            file=file,
        )


@pytest.fixture
def tracked(tmp_path: Path) -> tuple[Api, list[RunRecord]]:
    runs = [mixed(2, 60.0, sweep="order"), ladder(sweep="card")[2]]
    files = {}
    for run in runs:
        WandbTracker(TrackingConfig("wandb_offline"), tmp_path / "wandb").track(run)
        (files[run.key],) = (tmp_path / "wandb" / "wandb").glob(
            f"offline-run-*-{run.key}/files/result.json"
        )
    return Api(files, {r.key: r.sweep for r in runs}), runs


def test_the_frame_is_that_of_the_records(
    tracked: tuple[Api, list[RunRecord]], tmp_path: Path
) -> None:
    api, runs = tracked
    outputs = wandb_records.fetch("team/luq", tmp_path / "records", [], api)
    (study,) = frame.studies(load(outputs))
    for run in runs:
        runs_folder.write(tmp_path / "direct", run)
    (direct,) = frame.studies(load(tmp_path / "direct"))
    named = direct.scores.assign(name=direct.scores["key"].map(lambda k: f"run {k}"))
    assert list(study.scores.columns) == list(direct.scores.columns)
    columns = [c for c in study.scores.columns if c not in ("name", "label")]
    assert study.scores[columns].sort_values(["key", "benchmark"]).reset_index(drop=True).equals(
        named[columns].sort_values(["key", "benchmark"]).reset_index(drop=True)
    )  # fmt: skip
    assert load(outputs, ["order"]).records[0].key == runs[0].key


def test_records_are_fetched_once_and_by_group(
    tracked: tuple[Api, list[RunRecord]], tmp_path: Path
) -> None:
    api, runs = tracked
    wandb_records.fetch("team/luq", tmp_path / "records", ["order"], api)
    assert api.downloads == [runs[0].key]
    wandb_records.fetch("team/luq", tmp_path / "records", [], api)
    assert api.downloads == [runs[0].key, runs[1].key]


def test_a_run_without_its_record_keeps_nobody_away(
    tracked: tuple[Api, list[RunRecord]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api, runs = tracked
    api.files["old"], api.groups["old"] = None, "order"
    with caplog.at_level(logging.WARNING):
        outputs = wandb_records.fetch("team/luq", tmp_path / "records", [], api)
    assert "run old" in caplog.text
    assert len(load(outputs).records) == len(runs)


def test_a_project_that_cannot_be_reached(tmp_path: Path) -> None:
    class Closed:
        def runs(self, project: str, filters: dict[str, Any]) -> None:
            raise ConnectionError("no route")

    with pytest.raises(
        DataError,
        match=r"'team/luq' cannot be read \(ConnectionError: no route\): run `wandb login`",
    ):
        wandb_records.fetch("team/luq", tmp_path, [], Closed())


def test_a_report_is_a_run_of_its_own(tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "pareto.png"
    Image.new("RGB", (8, 8)).save(image)
    rows = [
        {"name": "a", "checkpoint_bytes": 10, "score": 50.0},
        {"name": "b", "checkpoint_bytes": 20, "score": 60.0},
    ]
    tracker = WandbTracker(TrackingConfig("wandb_offline"), tmp_path)
    tracker.track_report("order", {"m/hypervolume/mean": 0.5}, rows, {"pareto": image})
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (table,) = folder.glob("files/media/table/runs_*.table.json")
    assert json.loads(table.read_text())["data"] == [["a", 10, 50.0], ["b", 20, 60.0]]
    assert list(folder.glob("files/media/images/figures/pareto_*.png"))
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 500_000


def test_the_real_api_has_what_is_used() -> None:
    import inspect

    from wandb.apis.public import Api as Real
    from wandb.apis.public import File

    assert {"path", "filters"} <= set(inspect.signature(Real.runs).parameters)
    assert {"root", "replace"} <= set(inspect.signature(File.download).parameters)


@pytest.mark.parametrize(
    ("key", "group", "record"),
    [
        ("../../outside", "order", {}),
        ("plain", "../outside", {"key": "plain"}),
        ("plain", "/outside", {"key": "plain"}),
        ("plain", "order", {"key": "../../outside"}),
        ("plain", "order", {"key": "plain", "sweep": "../../outside"}),
    ],
)
def test_no_name_of_a_run_leads_out_of_the_folder(
    tracked: tuple[Api, list[RunRecord]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    key: str,
    group: str,
    record: dict[str, str],
) -> None:
    api, runs = tracked
    file = api.files[runs[0].key]
    assert file is not None
    content = sealed(json.loads(file.read_text(encoding="utf-8")) | record)
    (tmp_path / "strange.json").write_text(json.dumps(content), encoding="utf-8")
    api.files[key], api.groups[key] = tmp_path / "strange.json", group
    before = set(tmp_path.rglob("*"))
    with caplog.at_level(logging.WARNING):
        outputs = wandb_records.fetch("team/luq", tmp_path / "records" / "deep", [], api)
    assert "left out" in caplog.text
    made = set(tmp_path.rglob("*")) - before
    assert all(file.is_relative_to(outputs) or file in outputs.parents for file in made)
    assert len(load(outputs).records) == len(runs)
