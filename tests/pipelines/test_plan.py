"""`luq run --plan`: hours, memory and disk before anything runs."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from luq.store.store import Store
from pipelines import passes, workload
from pipelines.cost import kind_of
from pipelines.plan import START, Plan, run_plan
from pipelines.workload import Tokens, calibration_tokens, input_groups, looked_up
from tests.pipelines.command import luq

SMALL = [
    "model=pocket_llava", "allocation=uniform", "quantizer.high=rtn4", "evaluation.benchmarks=[gqa]", "evaluation.samples=4",
    "evaluation.fidelity=2", "evaluation.text_tokens=1024", "tracking=none",
]  # fmt: skip


def lines(text: str) -> dict[str, list[str]]:
    """First cell of each row of a table -> the others."""
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.count("│") > 4]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_plan_of_a_run_is_what_is_then_written(tmp_path: Path) -> None:
    words = [*SMALL, f"paths.outputs={tmp_path / 'outputs'}"]
    totals = run_plan(words).totals()
    assert not (tmp_path / "outputs").exists(), "a plan writes nothing"
    assert luq("run", *words).returncode == 0
    bytes_by_kind: dict[str, int] = {}
    for entry in Store(tmp_path / "outputs" / "store").built():
        kind = kind_of(entry.stage, entry.what)
        bytes_by_kind[kind] = bytes_by_kind.get(kind, 0) + entry.bytes
    assert totals["layers rtn4"].count == totals["layers float16"].count == 10
    assert totals["answers gqa"].count == totals["perplexity"].count == 2
    for kind, share in {"layers rtn4": 0.01, "layers float16": 0.1, "answers gqa": 0.3}.items():
        assert totals[kind].bytes == pytest.approx(bytes_by_kind[kind], rel=share)
    for total in totals.values():
        assert total.problem == ""
        assert total.seconds > 0
        assert total.memory > 6.58e6 * 2, "the model is there all the time"
    done = luq("run", *words, "--plan")
    assert "its record is there" in done.stdout
    assert "nothing is left to plan" in done.stdout


@pytest.mark.parametrize("group", ["evaluation", "calibration"])
def test_passes_are_measured_in_the_type_that_they_are_computed_in(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computes: list[str] = []

    def noted(compute: str, *where: object) -> AbstractContextManager[None]:
        computes.append(compute)
        return nullcontext()

    monkeypatch.setattr(passes, "answered_in", noted)
    monkeypatch.setattr(passes, "computed_in", noted)
    words = [*SMALL, "quantizer.high=gptq4", f"{group}.compute=bfloat16"]
    totals = run_plan([*words, f"paths.outputs={tmp_path}"]).totals()
    assert all(total.seconds > 0 for total in totals.values())
    asked, *calibrated = computes
    assert asked == ("bfloat16" if group == "evaluation" else "model")
    assert set(calibrated) == {"model" if group == "evaluation" else "bfloat16"}


def test_what_was_made_here_before_is_priced_by_it(tmp_path: Path) -> None:
    words = [*SMALL, "evaluation.benchmarks=[]", f"paths.outputs={tmp_path}"]
    assert luq("run", *words).returncode == 0
    other = [*words, "quantizer.tiers.rtn4.group_size=64"]
    totals = run_plan(other).totals()
    assert START not in totals, "nothing has to be measured"
    assert {total.source for total in totals.values()} == {"the store"}
    plan = luq("run", *other, "--plan")
    assert max(map(len, plan.stdout.splitlines())) <= 80
    rows = lines(plan.stdout)
    assert set(rows) - {"work"} == {"layers rtn4", "layers float16", "perplexity"}
    assert rows["layers rtn4"][:3] == ["10", "0", "10"]
    assert rows["layers float16"][:3] == ["10", "10", "0"]
    assert "the median of what was made here" in plan.stdout


def test_runs_of_a_multirun_share_their_work(tmp_path: Path) -> None:
    words = [*SMALL, "quantizer.high=rtn4,q4_0", f"paths.outputs={tmp_path}"]
    plan = run_plan(words, is_multirun=True)
    pieces = {kind: len(pieces) for kind, pieces in plan.work.pieces.items()}
    assert pieces["layers rtn4"] == pieces["layers q4_0"] == pieces["layers float16"] == 10
    assert pieces["answers gqa"] == 3, "the 16-bit model is asked once"
    assert not plan.work.is_bound


def test_the_layers_of_a_count_are_known_before_the_order(tmp_path: Path) -> None:
    words = [
        *SMALL, "allocation=count", "allocation.k=3", "quantizer.low=q4_0", f"paths.outputs={tmp_path}"
    ]  # fmt: skip
    plan = run_plan(words)
    pieces = {kind: len(pieces) for kind, pieces in plan.work.pieces.items()}
    assert (pieces["layers q4_0"], pieces["layers rtn4"]) == (3, 7)
    assert pieces["profiles"] == 1
    assert not plan.work.is_bound
    bound = run_plan([*words[:-1], "order=entropy,lim", words[-1]], is_multirun=True)
    assert bound.work.is_bound, "which layers two orders share is not known"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--cfg", "job"], "--plan and --cfg exclude each other"),
        (["-m", "hydra/sweeper=optuna"], "not possible for a search"),
        (["allocation.kk=2"], "allocation.kk"),
        (["allocation.k=2,4"], "allocation.k"),
        (["model.path=/nowhere/at/all"], "there is no such folder"),
    ],
)
def test_what_cannot_be_planned_is_said(tmp_path: Path, words: list[str], match: str) -> None:
    done = luq("run", "--plan", *words, f"paths.outputs={tmp_path}", width=300)
    assert match in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_family_that_cannot_be_measured_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import machine

    def broken(source: object) -> None:
        raise RuntimeError("no such replica")

    monkeypatch.setattr(machine, "Replica", broken)
    done = luq("run", *SMALL, "--plan", f"paths.outputs={tmp_path}", width=200)
    assert done.returncode == 0
    assert "not counted" in done.stdout
    assert "no such replica" in done.stdout
    assert "?" in lines(done.stdout)["layers rtn4"]


def test_calibration_tokens_are_those_of_their_batches(tmp_path: Path) -> None:
    words = [*SMALL, "allocation=count", "allocation.k=3", f"paths.outputs={tmp_path}"]
    plan: Plan = run_plan([*words, "calibration.tokens=4096"])
    graph = plan.work.left[0][1].graph
    # half of 4,096 tokens in images of 64 tokens, 32 of which go together; 16 texts of 128
    tokens = calibration_tokens(graph, [64], 0.25)
    assert tokens == Tokens(4096, 1 + 1, 32, 512, 32 + 16)
    assert calibration_tokens(graph, [], 0.0) == Tokens(4096, 2, 0, 0, 32)


def test_linears_share_inputs_in_the_order_of_the_forward_pass(tmp_path: Path) -> None:
    graph = run_plan([*SMALL, f"paths.outputs={tmp_path}"]).work.left[0][1].graph
    (first, *others) = workload.layer_shapes(graph.checkpoint)
    assert len(others) == 9
    assert first["mlp.down_proj"] == (128, 384)
    assert [len(group) for group in input_groups(first)] == [3, 1, 2, 1]
    assert workload.weights_of(first) == 4 * 128 * 128 + 3 * 128 * 384
    assert workload.part_shapes(graph.checkpoint, "head")[0][1] == 128
    assert workload.part_shapes(graph.checkpoint, "audio") == []


def test_passes_look_up_what_all_linears_but_those_of_the_last_two_inputs_gave() -> None:
    linears = {
        "self_attn.q_proj": (8, 8),
        "self_attn.k_proj": (4, 8),
        "self_attn.v_proj": (4, 8),
        "self_attn.o_proj": (8, 8),
        "mlp.gate_proj": (20, 8),
        "mlp.up_proj": (20, 8),
        "mlp.down_proj": (8, 20),
    }
    assert looked_up(linears) == 8 + 4 + 4 + 8
