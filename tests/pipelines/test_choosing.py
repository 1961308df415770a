"""Plans that measure before they choose, through the command that people type; and which GPU a job
takes.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForImageTextToText

from luq.allocation.allocations import Allocation
from luq.export.about import read_about
from luq.formats.layer_file import read_layer
from luq.formats.memory import peak_bytes, reset_peak
from luq.models.decoder import decoder_of
from pipelines import devices, runs_folder
from pipelines.checkpoints import export
from pipelines.record import RunRecord
from tests.pipelines.command import luq_to

SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.fidelity=0", "evaluation.text_tokens=0", "evaluation.benchmarks=[gqa,mme]",
    "tracking=none", "+quantizer.tiers.rtn2={method: rtn, bits: 2}", "quantizer.low=rtn2", "quantizer.high=rtn4",
]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("choosing")


def run(outputs: Path, group: str, *arguments: str) -> RunRecord:
    done = luq_to(outputs, "run", *SMALL, *arguments, f"group={group}")
    assert done.returncode == 0, done.stdout + done.stderr
    return next(iter(runs_folder.iterate(outputs, group)))


@pytest.mark.parametrize(("propagation", "method"), [("high", "rtn"), ("exact", "gptq")])
def test_a_budget_is_kept_by_the_files(outputs: Path, propagation: str, method: str) -> None:
    record = run(
        outputs, f"budget-{propagation}", "allocation=budget", "allocation.bits=3.5", f"quantizer.propagation={propagation}",
        "order=lim", "order.draws=2", f"quantizer.low={method}2", f"quantizer.high={method}4",
    )  # fmt: skip
    assert record.memory.stored_bits <= 3.5
    assert record.plan.bytes == record.memory.stored_bytes <= record.plan.budget_bytes
    one_more = record.memory.stored_bytes + (4.24 - 2.22) * record.memory.weights / 10 / 8
    assert one_more > record.plan.budget_bytes, "one more layer in the high tier would not fit"
    low = {i for i, tier in enumerate(record.tiers) if tier == f"{method}2"}
    assert low == set(record.order[: record.k])
    assert list(record.layer_scores) == ["lim"]
    first, second = record.draw_scores["lim"]
    assert first != second
    assert record.layer_scores["lim"] == [fmean(pair) for pair in zip(first, second, strict=True)]
    assert sum(label.startswith("calibration/") for label in record.artefacts.used) == 2


def test_bytes_of_the_whole_checkpoint_and_several_tiers(outputs: Path) -> None:
    tiers = "allocation.tiers=[rtn2,gptq3,rtn4]"
    record = run(
        outputs,
        "tiers",
        "allocation=budget",
        "allocation.bytes=3.1MB",
        tiers,
        "quantizer.propagation=high",
    )
    assert record.memory.checkpoint_bytes <= 3_100_000
    assert set(record.tiers) <= {"rtn2", "gptq3", "rtn4"}
    assert record.plan.error > 0


def test_a_tier_for_each_linear_from_the_command_to_the_folder(
    outputs: Path, tmp_path: Path
) -> None:
    record = run(
        outputs, "linears", "allocation=budget", "allocation.bits=3.3", "allocation.unit=linear",
        "allocation.tiers=[rtn3,rtn4]", "+quantizer.tiers.rtn3={method: rtn, bits: 3}",
        "allocation.error=fisher", "quantizer.low=rtn3", "quantizer.high=rtn4",
    )  # fmt: skip
    assert record.plan.bytes == record.memory.stored_bytes <= record.plan.budget_bytes
    assert record.memory.stored_bytes > 0.97 * record.plan.budget_bytes
    assert len(record.plan.linears) == 7
    assert record.other_tiers
    assert "=" in record.allocation
    export(outputs, record, tmp_path / "folder")
    about = read_about(tmp_path / "folder").run
    assert about is not None
    assert about.other_tiers == record.other_tiers
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "folder")
    folders = [outputs / "store" / "layers" / key for key in record.artefacts.layers]
    layers = decoder_of(model).layers
    for index, folder in enumerate(folders):
        for name, stored in read_layer(folder).items():
            linear = layers[index].get_submodule(name)
            allocation = Allocation(tuple(record.tiers), tuple(record.other_tiers))
            assert linear.tier == allocation.tier_of(index, name)
            assert stored.nominal_bits == int(linear.tier[-1])
            for buffer, content in stored.buffers.items():
                assert torch.equal(linear.get_buffer(buffer), content)


def test_quality_looks_at_every_k_of_the_selection_split(outputs: Path) -> None:
    record = run(
        outputs,
        "quality",
        "allocation=quality",
        "allocation.drop=5",
        "allocation.samples=4",
        "quantizer.propagation=high",
    )
    points = record.plan.points
    assert [p.k for p in points] == list(range(11))
    assert all(p.n == 8 for p in points)
    fine = [p.k for p in points if p.score >= points[0].score - 5]
    assert record.k == max(fine)
    assert record.split == "report"
    asked = {
        key
        for keys in (record.artefacts.answers, record.artefacts.float_answers)
        for key in keys.values()
    }
    made = {
        f.name for f in (outputs / "store" / "evaluation").iterdir() if not f.name.startswith(".")
    }
    assert len(made - asked) >= 22, "the points' answers are others than those of the report split"


def test_search_starts_from_errors_and_swaps(outputs: Path) -> None:
    record = run(
        outputs, "search", "allocation=search", "allocation.bits=3.5", "allocation.error=kl", "allocation.swaps=2",
        "quantizer.propagation=high", "allocation.samples=4", "profile.samples=2",
    )  # fmt: skip
    plan = record.plan
    assert record.memory.stored_bits <= 3.5
    assert len(plan.swaps) == 2
    assert plan.kl == min([plan.kl_before_swaps, *(s.kl for s in plan.swaps)])
    assert all(s.allocation != record.allocation or s.kept for s in plan.swaps)


def test_the_profile_shows_every_order_and_how_alike_they_are(outputs: Path) -> None:
    done = luq_to(outputs, "profile", *SMALL, "profile=all_orders", "profile.samples=2")
    assert done.returncode == 0, done.stderr
    for name in (
        "entropy:image",
        "entropy:text",
        "variance",
        "lim",
        "zd",
        "kurtosis",
        "depth",
        "output_error",
        "kl",
        "delta_loss",
    ):
        assert name in done.stdout
    assert "Kendall's tau" in done.stdout


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    return


@pytest.mark.usefixtures("gpus")
def test_jobs_at_the_same_time_take_different_gpus() -> None:
    with ExitStack() as running:
        assert [running.enter_context(devices.free("auto")) for _ in range(3)] == [
            "cuda:0",
            "cuda:1",
            "cuda:0",
        ]
        with devices.free("cpu") as device:
            assert device == "cpu"
    with devices.free("auto") as device:
        assert device == "cuda:0", "a finished job gives its GPU back"


def test_the_peak_of_a_job_is_not_that_of_the_one_before() -> None:
    reset_peak()  # what other tests of this process took
    before = peak_bytes()
    held = torch.ones(80_000_000)
    high = peak_bytes()
    assert high - before > 200e6
    del held
    reset_peak()
    assert peak_bytes() < high - 200e6
