"""Sweeps whose artefacts are made by workers of dask."""

from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from distributed import LocalCluster

from luq.quantization.artefacts import PackedLayer
from luq.store.store import Store
from pipelines import cluster, devices, worker
from pipelines.graph import Graph
from pipelines.grid import read
from pipelines.pieces import Piece, Pieces, needed
from pipelines.sweep import Sweep
from tests.pipelines.command import luq, luq_to

SMALL = [
    "calibration.tokens=512", "profile.tokens=256", "profile.clusters=10", "profile.seeds=1",
    "evaluation.samples=2", "evaluation.fidelity=2", "evaluation.text_tokens=512", "evaluation.benchmarks=[gqa,mme]",
    "tracking=none", "quantizer.high=rtn4", "quantizer.low=gptq2", "order=depth",
]  # fmt: skip


def pieces_of(outputs: Path, *overrides: str) -> list[Piece]:
    """Those of a sweep whose plans are all known from the start."""
    sweep = Sweep(read("order"), [*SMALL, *overrides, f"paths.outputs={outputs}"])
    store = Store(outputs / "store")
    pieces = Pieces(store)
    graphs = [Graph(job.config, store.root) for job in sweep.possible]
    return pieces.add([item for graph in graphs for item in needed(graph, store).artefacts])


def walks(pieces: list[Piece]) -> list[list[int]]:
    """The layers of each walk that sees calibration tokens."""
    found = []
    for piece in pieces:
        layers = [item for item in piece.artefacts if isinstance(item, PackedLayer)]
        found.append([layer.index for layer in layers if layer.calibration is not None])
    return [indices for indices in found if indices]


def test_a_plan_that_is_not_known_waits_for_what_it_rests_on(tmp_path: Path) -> None:
    sweep = Sweep(
        read("order"), [*SMALL, "order=entropy", "allocation.k=3", f"paths.outputs={tmp_path}"]
    )
    job = sweep.possible[0]
    store = Store(tmp_path / "store")
    needs = needed(Graph(job.config, store.root), store)
    assert not needs.is_all
    assert needs.artefacts[-1].stage == "profile"
    assert not any(
        layer.name == "gptq2" for layer in needs.artefacts if isinstance(layer, PackedLayer)
    )


def test_all_layers_that_a_plan_measures_are_one_piece(tmp_path: Path) -> None:
    search = ["allocation=search", "+allocation.bits=3", "quantizer.high=gptq3"]
    sweep = Sweep(read("order"), [*SMALL, *search, f"paths.outputs={tmp_path}"])
    store = Store(tmp_path / "store")
    graph = Graph(sweep.possible[0].config, store.root)
    store.get(graph.rest)
    store.get(graph.profile)  # the plan asks for these two first
    # what is measured goes through the layers of the high tier, which are a walk of their own
    whole = list(range(10))
    pieces = Pieces(store).add(needed(graph, store).artefacts)
    assert sorted(walks(pieces)) == [whole[:9], whole]


def test_a_walk_is_one_piece_and_what_a_model_is_asked_another(tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path, "allocation=uniform", "quantizer.high=gptq2")
    assert walks(pieces) == [list(range(10))]
    last = pieces[-1]
    assert last.description == "5 measures of the model in gptq2"
    stages = [artefact.stage for artefact in last.artefacts]
    assert stages == ["evaluation", "evaluation", "fidelity", "fidelity", "perplexity"]


def test_walks_part_where_plans_part(tmp_path: Path) -> None:
    """Each layer with its own inputs: what both plans have is made once."""
    order = ["order=depth,depth_reverse", "allocation.k=10,8"]
    pieces = pieces_of(tmp_path, *order, "quantizer.high=rtn4", "quantizer.propagation=exact")
    # all low; the first eight low, which shares all of its walk; the last eight low, after two
    # layers that need no data
    assert walks(pieces) == [list(range(10)), list(range(2, 10))]
    pieces = pieces_of(
        tmp_path / "b", "allocation.k=8,5", "quantizer.high=gptq3", "quantizer.propagation=exact"
    )
    assert walks(pieces) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]]
    labels = [artefact.label for piece in pieces for artefact in piece.artefacts]
    assert len(labels) == len(set(labels))


def test_a_piece_stands_after_those_that_it_needs(tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path, "allocation.k=8,5,2", "quantizer.high=gptq3")
    seen: set[str] = set()
    for piece in pieces:
        assert piece.after <= seen
        assert piece.name not in piece.after
        seen.add(piece.name)
    assert len(seen) == len(pieces)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """One worker, in this process."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as local:
        yield local.scheduler_address


def test_a_failure_is_written_down_and_the_others_go_on(scheduler: str, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too few words for a perplexity.", encoding="utf-8")
    words = ["order", *SMALL, "allocation=uniform", "allocation.k=3"]
    both = [*words, f"evaluation.text=pocket,{short}"]
    done = luq_to(tmp_path, "sweep", *both, "--scheduler", scheduler)
    assert done.returncode == 1, done.stdout
    assert "workers: 1" in done.stdout
    assert "DataError" in done.stderr
    status = luq_to(tmp_path, "status", *both).stdout
    assert "1 done, 0 running, 1 failed" in status
    again = luq_to(tmp_path, "sweep", *words, "--scheduler", scheduler)
    assert again.returncode == 0
    assert "workers" not in again.stdout, "all is done: nobody is called"


def test_workers_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    words = ["sweep", "order", *SMALL, "allocation.k=3", "--scheduler", "tcp://127.0.0.1:9"]
    done = luq_to(tmp_path, *words)
    assert done.returncode == 1
    assert "no scheduler of dask answers there" in done.stderr
    assert "exclude each other" in luq_to(tmp_path, *words, "--workers", "2").stderr
    apart = luq(*words, f"paths.outputs={tmp_path}/a,{tmp_path}/b")
    assert "one folder of outputs" in apart.stderr


def test_a_worker_that_does_not_see_the_outputs(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "look", lambda file: worker.Sight("0.0.1", None, False))
    words = ["sweep", "order", *SMALL, "allocation.k=3", "--scheduler", scheduler]
    assert "need the outputs under the same path" in luq_to(tmp_path, *words).stderr


def test_a_worker_of_several_threads(tmp_path: Path) -> None:
    options = {"processes": False, "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=2, **options) as local:
        words = ["sweep", "order", *SMALL, "allocation.k=3", "--scheduler", local.scheduler_address]
        done = luq_to(tmp_path, *words)
    assert "has 2 threads, and holds one model" in done.stderr


def test_a_scheduler_without_workers_is_waited_for(tmp_path: Path) -> None:
    options = {"processes": False, "dashboard_address": None, "threads_per_worker": 1}
    with LocalCluster(n_workers=0, **options) as local:
        joining = Timer(1.0, local.scale, [1])
        joining.start()
        words = ["order", *SMALL, "allocation.k=3", "evaluation.text=no_such.txt"]
        done = luq_to(tmp_path, "sweep", *words, "--scheduler", local.scheduler_address)
        joining.join()
    assert "no workers yet: waiting for the first" in done.stdout
    assert "workers: 1" in done.stdout


def test_each_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "require", lambda device: None)
    shown = []
    gpus = [worker.Gpu(), worker.Gpu()]
    for gpu in gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        gpu.setup(None)
        shown.append(worker.os.environ["CUDA_VISIBLE_DEVICES"])
    assert shown == ["4", "7"]
    for gpu in gpus:
        gpu.teardown(None)
