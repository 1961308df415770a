"""The command line: what people type, what it answers, and how little it takes to answer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
import pytest
from omegaconf import DictConfig

from luq import __version__
from luq.config import RunConfig
from luq.pocket.shipped import WEIGHTS
from pipelines import cli, run
from pipelines.completion import candidates
from pipelines.examples import EXAMPLES
from pipelines.schema import to_config
from tests.conftest import BENCHMARKS
from tests.pipelines.command import luq, luq_to

# `report` has the analysis's own parser, which needs pandas and scipy (and no torch: that is tested
# with the architecture).
QUICK = sorted(name for name in cli.luq.commands if name not in ("report", "complete"))
COMMANDS = sorted(name for name, command in cli.luq.commands.items() if not command.hidden)
HEAVY = ("torch", "transformers", "sklearn", "scipy", "datasets", "lm_eval", "wandb")


def test_help_names_every_command() -> None:
    shown = luq("--help", width=100)
    assert shown.returncode == 0
    for word in (*COMMANDS, "allocation.k=0,2,4,6"):
        assert word in shown.stdout
    assert max(len(line) for line in luq("--help").stdout.splitlines()) <= 80


def test_the_version_is_said() -> None:
    assert luq("--version").stdout == f"luq {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rnu"], 1, "unknown command 'rnu': did you mean run"),
        (["sweep", "paretto"], 1, "did you mean pareto"),
        (["info"], 2, "Missing argument"),
        (["export", "a", "b", "--format", "c"], 2, "compressed-tensors"),
        (["compare", "a"], 1, "luq compare needs two runs"),
        (["run", "model=pocket_lava"], 1, "did you mean pocket_llava"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], code: int, message: str) -> None:
    done = luq(*words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_words_of_the_process_are_left_alone(tmp_path: Path) -> None:
    before = list(sys.argv)
    luq("run", "--cfg", "job", f"paths.outputs={tmp_path}")
    assert sys.argv == before


def test_a_jobs_config_is_shown() -> None:
    shown = luq("run", "--cfg", "job", "allocation=budget", "allocation.bits=3").stdout
    assert "name: budget" in shown
    assert "bits: 3" in shown


def test_named_sweeps_are_listed() -> None:
    shown = luq("sweep")
    assert shown.returncode == 0
    assert "pareto" in shown.stdout


@pytest.mark.parametrize(
    "words",
    [
        "--help", "status card", "store du", "store verify", "sweep", "completion bash",
        "complete -- run order=e", *(f"{name} --help" for name in QUICK), "pocket train --help",
    ],
)  # fmt: skip
def test_a_quick_command_imports_nothing_heavy(words: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    code = (
        "import sys; from pipelines.cli import main; code = main(sys.argv[1:]); "
        f"loaded = [m for m in {HEAVY} if m in sys.modules]; sys.exit(str(loaded) if loaded else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LUQ_OUTPUTS": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("luq s", {"status", "store", "sweep"}),
        ("luq store ", {"clean", "du", "verify"}),
        ("luq pocket t", {"train"}),
        ("luq store clean --y", {"--yes"}),
        ("luq store clean --sweep mod", {"modality", "models"}),
        ("luq report pareto the", set()),
        ("luq report pareto thr", {"thresholds"}),
        ("luq sweep pareto order=depth,kl", {"order=depth,kl"}),
        ("luq rnu mod", set()),
        ("luq sweep p", {"pareto", "propagation", "paper_laptop", "paper_llava", "paper_qwen"}),
        ("luq run order=ent", {"order=entropy", "order=entropy_reverse"}),
        ("luq run calib", {"calibration=", *(f"calibration.{name}=" for name in (
            "alpha", "benchmarks", "compute", "image_factor", "name", "sample_tokens", "seed", "source", "text",
            "tokens", "weighting",
        ))}),
        ("luq sweep pareto calibration=t", {"calibration=text"}),
        ("luq run allocation.q", {"allocation.quantile="}),
        ("luq info ", set()),
        ("luq run quantizer.low=trellis", {f"quantizer.low=trellis{bits}" for bits in ("1", "1_25", "1_5", "1_75", "2", "2_5", "3", "3_5", "4")}),
        ("luq run quantizer.propagation=", {f"quantizer.propagation={name}" for name in ("exact", "high", "float")}),
        ("luq run checkpoint=", {"checkpoint=true", "checkpoint=false"}),
        ("luq run -m hydra/sweeper=", {"hydra/sweeper=basic", "hydra/sweeper=optuna"}),
        ("luq run --mul", {"--multirun"}),
        ("luq sweep --plan ti", {"tiers"}),
        ("luq export a b --format d", {"dequantized"}),
        ("luq report --tracking w", {"wandb", "wandb_offline"}),
        ("luq report --t", {"--to", "--tracking"}),
    ],
)  # fmt: skip
def test_tab_completion(line: str, expected: set[str]) -> None:
    words = line.split(" ")[1:]
    assert set(candidates(words, cli.luq)) == expected
    shown = luq("complete", "--", *words).stdout.split()
    assert set(shown) == expected


@pytest.fixture
def finished_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes of two finished runs of a sweep, one with a name of two words."""
    for key, name in (("1", "luq_k4"), ("2", "order=depth allocation.k=4")):
        note = tmp_path / "sweeps" / "demo" / f"{key}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"run": key, "name": name}))
    monkeypatch.setenv("LUQ_OUTPUTS", str(tmp_path))


@pytest.mark.usefixtures("finished_runs")
@pytest.mark.parametrize("command", ["compare", "export"])
def test_tab_completes_the_names_of_runs(command: str) -> None:
    assert candidates([command, "demo/l"], cli.luq) == ["demo/luq_k4"]
    assert len(candidates([command, ""], cli.luq)) == 2


@pytest.mark.usefixtures("finished_runs")
def test_tab_completes_groups_that_have_runs() -> None:
    assert "demo" in candidates(["report", "d"], cli.luq)


def test_tab_names_runs_by_what_differs(tmp_path: Path) -> None:
    for k in (2, 4):
        note = tmp_path / "sweeps" / "mine" / f"{k}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"run": str(k), "name": f"profile.tokens=9 allocation.k={k}"}))
    words = ["compare", "--outputs", str(tmp_path), "mine/"]
    assert candidates(words, cli.luq) == ["mine/allocation.k=2", "mine/allocation.k=4"]


def test_tab_knows_own_configs(tmp_path: Path) -> None:
    for name in ("model/mine.yaml", "sweep/ours.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    own = ["--config-dir", str(tmp_path)]
    assert candidates(["run", *own, "model=m"], cli.luq) == ["model=mine"]
    assert candidates(["sweep", "o"], cli.luq) == ["order"]


@pytest.mark.parametrize(
    "name", [*COMMANDS, "store du", "store clean", "pocket data", "pocket train"]
)
def test_the_help_of_a_command_has_words_for_all_and_an_example(name: str) -> None:
    command: click.Command = cli.luq
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    shown = luq(*name.split(), "--help").stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name}"
    if not isinstance(command, click.Group):
        assert f"  luq {name}" in shown or "luq completion" in shown
    summary = command.get_short_help_str(limit=64)
    assert not summary.endswith("..."), summary


def test_the_help_of_run_names_every_group_and_its_choices() -> None:
    shown = luq("run", "--help").stdout
    for word in ("calibration=", "multimodal_all", "experiment=", "trellis2", "--multirun"):
        assert word in shown


def test_examples_are_commands_that_there_are() -> None:
    for examples in EXAMPLES.values():
        for line, meaning in examples:
            words = line.removeprefix('eval "$(').split()
            assert words[0] == "luq"
            assert words[1] in cli.luq.commands
            assert meaning


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.usefixtures("finished_runs")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("luq sw", ["sweep"]),
        ("luq run order=entropy_", ["entropy_reverse"]),  # bash has "order=" already
        ("luq compare demo/l", ["demo/luq_k4"]),
        ("luq compare demo/luq_k4 demo/o", [r"demo/order=depth\ allocation.k=4"]),
        (r"luq compare demo/order=depth\ a", [r"depth\ allocation.k=4"]),
        ("luq info ", []),  # files, which bash knows
    ],
)
def test_the_script_completes_in_bash(line: str, expected: list[str]) -> None:
    script = """
    luq() { "$PYTHON" -m pipelines.cli "$@"; }
    eval "$(luq completion bash)"
    COMP_LINE="$1" COMP_POINT="${#1}"
    _luq 2>/dev/null
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", line],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.stdout.split("\n")[:-1] == (expected or [""])


def test_hydras_old_words_for_completion_print_the_script() -> None:
    assert luq("-sc", "install=bash") == luq("completion", "bash")


@pytest.mark.parametrize("words", [[], ["store"], ["pocket"]])
def test_a_group_without_a_command_shows_its_help(words: list[str]) -> None:
    shown = luq(*words)
    assert shown.returncode == 2
    assert shown.stderr.startswith("Usage: luq")


def test_help_of_a_command_with_a_parser_of_its_own_ends_with_a_code() -> None:
    shown = luq("report", "--help")
    assert shown.returncode == 0
    assert "--wandb" in shown.stdout
    assert luq("report", "--unknown").returncode == 2


def test_jobs_are_composed_as_the_installed_hydra_composes() -> None:
    """Not as version 1.1 did, which is what Hydra assumes where nobody says it."""
    code = "import sys; from pipelines.cli import main; sys.exit(main(['run', '--cfg', 'hydra']))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "version_base: '1.3'" in shown.stdout


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "job", interrupted)
    done = luq("run", f"paths.outputs={tmp_path}", width=200)
    assert done.returncode == 130
    assert "the same command continues from there" in done.stderr


@pytest.mark.parametrize("words", [["a=1"], ["+hydra.x=["]])
def test_what_hydra_refuses_is_an_exit_code(words: list[str]) -> None:
    assert luq("run", *words).returncode == 1


def test_pocket_data_writes_nine_parquet_files(tmp_path: Path) -> None:
    done = luq("pocket", "data", str(tmp_path), "--split", "selection")
    assert done.returncode == 0, done.stderr
    for name in BENCHMARKS:
        assert len(pd.read_parquet(tmp_path / f"{name}.parquet")) >= 100


def test_pocket_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    first = luq("pocket", "train", str(tmp_path), "--steps", "2", "--vision-steps", "2")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    second = luq("pocket", "train", str(tmp_path), "--steps", "3", "--vision-steps", "2")
    assert second.returncode == 0, second.stderr
    assert "checkpoint" in second.stdout
    start = str(WEIGHTS / "pocket_llava")
    third = luq("pocket", "train", str(tmp_path / "more"), "--steps", "1", "--start", start)
    assert third.returncode == 0, third.stderr
    assert not (tmp_path / "more" / "vision.pt").exists()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, RunConfig]]:
    """The stage and the config of every job that a command starts; those with k=3 fail."""
    started: list[tuple[str, RunConfig]] = []

    def job(stage: str, composed: DictConfig, failures: run.Failures, **_: object) -> None:
        config = to_config(composed)
        started.append((stage, config))
        if config.allocation.k == 3:
            failures.names.append("k=3")

    monkeypatch.setattr(run, "job", job)
    return started


@pytest.mark.parametrize("command", ["run", "profile", "quantize", "evaluate"])
def test_a_command_is_one_job_of_its_stage(
    jobs: list[tuple[str, RunConfig]], command: str, tmp_path: Path
) -> None:
    assert luq_to(tmp_path, command, "allocation.k=2").returncode == 0
    [(stage, config)] = jobs
    assert stage == command
    assert config.allocation.k == 2


def test_a_multirun_is_a_job_for_every_combination(
    jobs: list[tuple[str, RunConfig]], tmp_path: Path
) -> None:
    done = luq_to(tmp_path, "run", "-m", "allocation.k=0,2", "calibration=text,multimodal")
    assert done.returncode == 0, done.stderr
    combinations = {(config.allocation.k, config.calibration.name) for _, config in jobs}
    assert combinations == {(0, "text"), (0, "multimodal"), (2, "text"), (2, "multimodal")}
    assert {config.paths.outputs for _, config in jobs} == {str(tmp_path)}


def test_a_failed_job_is_the_exit_code_after_the_others_ran(
    jobs: list[tuple[str, RunConfig]], tmp_path: Path
) -> None:
    assert luq_to(tmp_path, "run", "-m", "allocation.k=3,2").returncode == 1
    assert [config.allocation.k for _, config in jobs] == [3, 2]
    assert luq_to(tmp_path, "run", "allocation.k=2").returncode == 0, "each command for itself"
