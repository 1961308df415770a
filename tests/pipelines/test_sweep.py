"""Named sweeps: their grids, and what survives kills and company."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from luq.errors import ConfigError
from luq.store import digests
from luq.store.store import JOURNAL, Store
from pipelines import plan, runs_folder
from pipelines.cost import Work
from pipelines.graph import Graph
from pipelines.grid import names, read
from pipelines.record import lasting as lasting_part
from pipelines.sweep import ImpossibleJob, Sweep
from tests.pipelines.command import Done, luq_to
from tests.pipelines.command import luq as command_luq

SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.fidelity=2", "evaluation.text_tokens=1024", "evaluation.benchmarks=[gqa,mme]",
    "tracking=none", "quantizer.high=rtn4",
]  # fmt: skip
# What models, statistics and figures need: none of it to look at what is done.
HEAVY = ("torch", "transformers", "datasets", "lm_eval", "pandas", "scipy", "sklearn", "wandb")
FOUR = ["order", *SMALL, "order=random", "order.seed=0,1", "allocation.k=6,3"]


# sums depend on the number of threads in the last bit, and joblib gives each of its processes its
# share of the cores
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(outputs: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *arguments, f"paths.outputs={outputs}"]


def luq(outputs: Path, *arguments: str) -> Done:
    return luq_to(outputs, *arguments)


def lasting(outputs: Path) -> list[dict]:
    return [lasting_part(record) for record in runs_folder.iterate(outputs)]


def built(outputs: Path) -> Counter[str]:
    lines = (outputs / "store" / JOURNAL).read_text().splitlines()
    return Counter(f"{e['stage']}/{e['key']}" for e in map(json.loads, lines))


def left_over(outputs: Path) -> list[str]:
    return [str(f) for f in outputs.rglob("*") if ".tmp" in f.name or ".partial" in f.name]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A sweep of four runs that nothing disturbed."""
    outputs = tmp_path_factory.mktemp("four")
    return outputs, luq(outputs, "sweep", *FOUR)


@pytest.mark.parametrize("name", names())
def test_every_named_sweep_composes(name: str) -> None:
    jobs = Sweep(read(name), []).jobs
    assert not [job.error for job in jobs if isinstance(job, ImpossibleJob)]
    assert len({job.key for job in jobs}) == len(jobs) == len({job.name for job in jobs}) > 1
    assert {job.config.group for job in jobs} == {name}


def test_overrides_for_hydra_are_not_the_runs() -> None:
    for given in (
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "+hydra.launcher.ray.init.num_cpus=2",
    ):
        sweep = Sweep(read("card"), [given, "seed=1"])
        assert sweep.task == ["seed=1"]
        assert all(given not in job.overrides for job in sweep.jobs)


def test_a_launcher_that_is_not_there(tmp_path: Path) -> None:
    sweep = Sweep(read("card"), ["hydra/launcher=nope", f"paths.outputs={tmp_path}"])
    with pytest.raises(ConfigError, match=r"nope.*Launchers are extras"):
        sweep.run()
    with pytest.raises(ConfigError, match=r"n_jbs'?$"):
        Sweep(read("card"), ["hydra.launcher.n_jbs=2", f"paths.outputs={tmp_path}"]).run()


def shown(sweep: str, *overrides: str) -> list[str]:
    return [job.name for job in Sweep(read(sweep), list(overrides)).jobs]


def amount(sweep: str, *overrides: str) -> int:
    """How many runs it has; none of them is composed."""
    return len(Sweep(read(sweep), list(overrides)).combinations())


def test_the_command_line_changes_the_grid() -> None:
    assert amount("pareto") == 24
    assert shown("pareto", "experiment=gptq4,float16") == ["float16", "gptq4"]
    assert shown("clusters", "profile.clusters=10,20") == [
        "profile.clusters=10",
        "profile.clusters=20",
    ]
    assert shown("clusters", "profile.clusters=10", "seed=0,1", "order=lim") == [
        "seed=0 profile.clusters=10", "seed=1 profile.clusters=10",
    ]  # fmt: skip
    assert amount("pareto", "allocation.k=6,3") == 4 + 2 * 2
    assert amount("pareto", "model=pocket_llava") == 24
    assert shown("order", "order=random", "order.seed=3", "allocation.k=range(2,5)") == [
        *(f"order=random order.seed=3 allocation.k={k}" for k in (2, 3, 4)),
    ]  # fmt: skip
    assert {
        j.config.model.name
        for j in Sweep(read("paper_llava"), ["model=pocket_llava", "allocation.k=2"]).possible
    } == {"pocket_llava"}
    listed = Sweep(
        read("budgets"),
        ["allocation.tiers=[gptq2,gptq4]", "allocation=budget", "allocation.bits=3"],
    ).possible
    assert {tuple(j.config.allocation.tiers) for j in listed} == {
        (),
        ("gptq2", "gptq4"),
    }


@pytest.mark.parametrize(
    ("sweep", "overrides", "match"),
    [
        ("paretto", [], "did you mean pareto"),
        ("pareto", ["model=lava"], "unknown model"),
        ("order", ["allocation.k=(1"], "cannot be read"),
        ("clusters", ["profile.clusters=interval(10,20)"], r"interval\(10,20\): a grid needs"),
    ],
)
def test_bad_sweeps_say_so(sweep: str, overrides: list[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Sweep(read(sweep), overrides).combinations()


def test_an_impossible_run_is_a_failure_of_its_own() -> None:
    jobs = Sweep(read("alpha"), ["calibration.alpha=0.5,7", "allocation.k=2"]).jobs
    assert [job.look().state for job in jobs if isinstance(job, ImpossibleJob)] == [
        ("failed", "calibration.alpha=7.0 is not possible: it must be in [0, 1]")
    ]


def test_a_sweep_leaves_its_records(four: tuple[Path, Done]) -> None:
    outputs, done = four
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(runs_folder.iterate(outputs, "order"))) == 4
    assert {r.name for r in runs_folder.iterate(outputs, "order")} == {
        f"order=random order.seed={s} allocation.k={k}" for s in (0, 1) for k in (3, 6)
    }
    assert "on the Pareto front" in done.stdout
    assert max(built(outputs).values()) == 1
    layers = [key for key in built(outputs) if key.startswith("layers/")]
    assert len(layers) <= 3 * 10, "one per layer in float16, rtn4 and billm"


def test_the_second_time_nothing_runs(four: tuple[Path, Done]) -> None:
    outputs, _ = four
    before = built(outputs)
    again = luq(outputs, "sweep", *FOUR)
    assert again.returncode == 0
    assert "4 runs, 4 done" in again.stdout
    assert built(outputs) == before
    status = luq(outputs, "status", *FOUR)
    assert "4 done, 0 running, 0 failed, 0 missing" in status.stdout


def test_a_finished_sweep_is_looked_at_without_a_model(
    four: tuple[Path, Done], tmp_path: Path
) -> None:
    """Neither does a finished run import what a model needs."""
    outputs = shutil.copytree(four[0], tmp_path / "outputs")  # the run writes its record again
    place = f"paths.outputs={outputs}"
    sweep = [*FOUR, place]
    run = [*SMALL, *read("order").base, "order=random", "order.seed=0", "allocation.k=3", place]
    commands = [["status", *sweep], ["sweep", *sweep, "--plan"], ["sweep", *sweep], ["run", *run]]
    code = (
        "import sys\n"
        "from pipelines.cli import main\n"
        f"for words in {commands}:\n"
        "    assert main(words) == 0\n"
        f"    loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert not loaded, f'luq {words[0]} imports {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 done, 0 running" in done.stdout
    assert "0 made" in done.stdout


def test_a_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs, commands and processes ask for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    reads: Counter[str] = Counter()

    def counted(file: Path) -> str:
        reads[file.name] += 1
        return read(file)

    read = digests.sha256_of
    card = ["card", "experiment=float16,gptq4"]
    monkeypatch.setattr(digests, "sha256_of", counted)
    monkeypatch.setattr(plan, "_totals", lambda work, known: {})  # nothing is measured
    for words in (["status", *card], ["sweep", *card, "--plan"], ["status", *card]):
        digests._remembered.cache_clear()  # as a new process
        assert luq(tmp_path / "outputs", *words).returncode == 0
    assert reads["model.safetensors"] == reads["tokenizer.json"] == 1
    assert max(reads.values()) == 3, "files of a few bytes are read by each process"


def test_a_sweep_is_compared_along_an_axis(four: tuple[Path, Done]) -> None:
    words = ["compare", "order", "--outputs", str(four[0]), "--axis"]
    shown = command_luq(*words, "allocation.k", width=160)
    assert shown.returncode == 0, shown.stderr
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:]
        for line in shown.stdout.splitlines()
        if line.count("│") > 6
    }
    (row,) = (cells for name, cells in rows.items() if name in ("3", "6"))
    assert row[0].strip() == "2", "two seeds each"
    wrong = command_luq(*words, "nonsense")
    assert wrong.returncode == 1
    assert "unknown axis 'nonsense'" in wrong.stderr


def test_the_plan_says_what_is_left(four: tuple[Path, Done]) -> None:
    outputs, _ = four
    before = built(outputs)
    plan = luq(outputs, "sweep", *FOUR[:-1], "allocation.k=6,5,3", "--plan").stdout
    assert "4 done, 0 running, 0 failed, 2 missing" in plan
    rows = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:5]]
        for line in plan.splitlines()
        if line.count("│") > 6
    }
    assert rows["profiles"] == ["1", "1", "0"]
    assert rows["layers rtn4"][2] == "0", (
        "the all-high model feeds every layer, so all of its layers are there"
    )
    assert rows["answers gqa"] == ["3", "1", "2"], "the 16-bit model was asked by other runs"
    assert built(outputs) == before
    assert "projection" not in plan, "all of it was made here before"
    asked = [*FOUR, "order.seed=0", "evaluation.benchmarks=[gqa]"]
    from_nothing = luq(outputs / "empty", "sweep", *asked, "--plan").stdout
    assert "projection: from shapes, tokens and measurements of this machine" in from_nothing
    assert "not counted" not in from_nothing
    assert "at most" not in from_nothing, "a random order needs no profile"
    assert not (outputs / "empty").exists()


def test_what_is_not_known_is_a_bound(tmp_path: Path) -> None:
    work = Work()
    for job in Sweep(
        read("order"), [*SMALL, "order=entropy", f"paths.outputs={tmp_path}"]
    ).possible:
        graph = Graph(job.config, job.outputs / "store", download=False)
        work.add_run(graph, Store(job.outputs / "store"))
    assert work.is_bound, "which layers the runs share is known with the profile"
    assert len(work.pieces["profiles"]) == 1


def test_kills_change_nothing(four: tuple[Path, Done], tmp_path: Path) -> None:
    """kill -9 at random moments, and again and again: the same records, byte for byte, and no
    temporary file.
    """
    moments = random.Random(4)
    for _ in range(4):
        process = subprocess.Popen(
            command(tmp_path, "sweep", *FOUR),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        for _ in range(600):  # the first seconds only import
            if (tmp_path / "store").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(moments.uniform(0, 4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = luq(tmp_path, "sweep", *FOUR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lasting(tmp_path) == lasting(four[0])
    assert left_over(tmp_path) == []


HALF = [*FOUR, "order.seed=0"]  # two of the runs: launchers start a process for each
LAUNCHERS = {
    "two processes": FOUR,
    "joblib": [*HALF, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": [*HALF, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_company_shares_the_work(four: tuple[Path, Done], tmp_path: Path, launcher: str) -> None:
    # The questions are there: drawing them again takes as long as the rest.
    shutil.copytree(four[0] / "store" / "pocket", tmp_path / "store" / "pocket")
    both = [
        subprocess.Popen(
            command(tmp_path, "sweep", *LAUNCHERS[launcher]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        )
        for _ in range(2 if launcher == "two processes" else 1)
    ]
    output = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0] * len(both), "\n".join(output)
    made = lasting(tmp_path)
    assert len(made) == (4 if launcher == "two processes" else 2)
    assert [record for record in lasting(four[0]) if record in made] == made
    assert max(built(tmp_path).values()) == 1, "something was made twice"
    assert left_over(tmp_path) == []


def test_a_killed_worker_loses_nothing(four: tuple[Path, Done], tmp_path: Path) -> None:
    shutil.copytree(four[0] / "store" / "pocket", tmp_path / "store" / "pocket")
    process = subprocess.Popen(
        command(tmp_path, "sweep", *HALF, "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    journal = tmp_path / "store" / JOURNAL
    while process.poll() is None and not (journal.exists() and len(built(tmp_path)) > 3):
        time.sleep(0.05)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert len(workers) == 2
    assert "workers: 2" in output
    made = lasting(tmp_path)
    assert len(made) == 2
    assert [record for record in lasting(four[0]) if record in made] == made
    assert max(built(tmp_path).values()) == 1, "something was made twice"
    assert left_over(tmp_path) == []


def test_a_failure_stops_no_other_run_and_is_tried_again(tmp_path: Path) -> None:
    asked = [
        "order",
        *SMALL,
        "order=entropy",
        "order.modality=image",
        "allocation.k=3",
        "calibration=text,multimodal",
    ]
    done = luq(tmp_path, "sweep", *asked)
    assert done.returncode == 1
    assert "has no image tokens" in done.stdout
    status = luq(tmp_path, "status", *asked).stdout
    assert "3 done, 0 running, 1 failed, 0 missing" in status
    assert "ConfigError: order.modality=image is not possible" in status
    failed = next((tmp_path / "failed").glob("*.json"))
    assert "Traceback" in (tmp_path / "logs" / f"{failed.stem}.log").read_text()
    assert len(list(runs_folder.iterate(tmp_path, "order"))) == 3


def test_what_follows_a_record_is_made_up_for(four: tuple[Path, Done], tmp_path: Path) -> None:
    """A run that was killed after its record has neither a folder nor a mirror."""
    outputs = shutil.copytree(four[0], tmp_path / "outputs")
    asked = [*FOUR, "allocation.k=3", "order.seed=0", "checkpoint=true", "tracking=wandb_offline"]
    before = built(outputs)
    status = " ".join(luq(outputs, "status", *asked).stdout.split())
    assert "0 done, 0 running, 0 failed, 1 missing" in status
    assert "its record is there without its checkpoint and mirror" in status
    done = luq(outputs, "sweep", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (outputs / "checkpoints").iterdir()
    assert (folder / "model.safetensors").exists()
    assert len(list((outputs / "wandb").rglob("*.wandb"))) == 1
    assert built(outputs) == before, "nothing of the run itself is made again"
    shutil.rmtree(folder)
    assert luq(outputs, "sweep", *asked).returncode == 0
    assert (folder / "model.safetensors").exists()
    assert len(list((outputs / "wandb").rglob("*.wandb"))) == 1, "the mirror was there"


def test_a_mirror_that_failed_is_tried_again_and_fails_no_run(
    four: tuple[Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    outputs = shutil.copytree(four[0], tmp_path / "outputs")
    asked = [*FOUR, "allocation.k=3", "order.seed=0", "tracking=wandb_offline"]

    def broken(**_: object) -> None:
        raise ConnectionError("no network")

    with monkeypatch.context() as offline:
        offline.setattr(wandb, "init", broken)
        done = luq(outputs, "sweep", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    status = " ".join(luq(outputs, "status", *asked).stdout.split())
    assert "without its mirror (ConnectionError: no network)" in status
    assert "1 done" in status
    assert luq(outputs, "sweep", *asked).returncode == 0
    assert "without its mirror" not in luq(outputs, "status", *asked).stdout
    assert len(list((outputs / "wandb").rglob("*.wandb"))) == 1
