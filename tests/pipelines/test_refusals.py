"""What users do and machines refuse: one screen that says what, where and what to do, no traceback.

A case is a name, what is prepared, and the words of a command; it must fail with the words that a
person needs, and leave the outputs as they were.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from luq.store.sealed import sealed
from luq.store.store import JOURNAL
from pipelines import grid
from pipelines.sweep import Sweep
from tests.analysis.synthetic import ladder
from tests.pipelines.command import luq

SCREEN = 24  # lines
SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.fidelity=0", "evaluation.text_tokens=1024",
    "evaluation.benchmarks=[gqa]", "tracking=none", "allocation.k=3", "group=small", "quantizer.high=rtn4",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Words of a command, in which {outputs} and {place} stand for folders; what it must say."""

    words: str
    said: str
    prepare: Callable[[Path], object] = lambda _: None  # takes {place}


def write(name: str, content: bytes) -> Callable[[Path], object]:
    """Make a file in {place}."""

    def prepare(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)

    return prepare


A_FILE = write("file", b"")
LONG = "x" * 300
CASES = {
    # Settings that no run can have.
    "negative seed": Case("run seed=-1 paths.outputs={place}", "seed=-1 is not possible"),
    "infinite seed": Case("run seed=inf paths.outputs={place}", "seed=inf is not possible"),
    "alpha no number": Case("run calibration.alpha=nan paths.outputs={place}", "alpha=nan"),
    "infinite alpha": Case("run calibration.alpha=inf paths.outputs={place}", "alpha=inf"),
    "infinite k": Case("run allocation.k=inf paths.outputs={place}", "k=inf"),
    "infinite threshold": Case(
        "run allocation=threshold allocation.entropy_max=inf paths.outputs={place}",
        "entropy_max=inf",
    ),
    "infinite budget": Case(
        "run allocation=budget allocation.bits=inf paths.outputs={place}", "bits=inf"
    ),
    "no setting": Case("run alocation.k=2 paths.outputs={place}", "did you mean allocation.k"),
    "no grammar": Case(
        "run allocation.k=[1 paths.outputs={place}", "'allocation.k=[1' cannot be read"
    ),
    "group above": Case("run group=../x paths.outputs={place}", "a plain name"),
    "group elsewhere": Case("run group=/x paths.outputs={place}", "a plain name"),
    "group of escapes": Case("run group='\x1b[2J' paths.outputs={place}", "group"),
    "unknown tier of a part": Case(
        "run quantizer.vision=gptq5 paths.outputs={place}", "quantizer.vision 'gptq5': did you mean"
    ),
    "rows of a trellis": Case(
        "run quantizer.embeddings=trellis2 paths.outputs={place}",
        "a tier that decodes single rows: float16, gptq8",
    ),
    "tower without images": Case(
        "run calibration=text quantizer.projector=gptq4 paths.outputs={place}",
        "quantizer.projector=gptq4 is not possible: the calibration set (alpha=0) has no images",
    ),
    "half a budget of the tower": Case(
        "run allocation.vision.bits=3 paths.outputs={place}",
        "it must be both of allocation.vision.tiers and allocation.vision.bits",
    ),
    "unknown tier of the tower's": Case(
        "run allocation.vision.bits=3 allocation.vision.tiers=[gptq5] paths.outputs={place}",
        "tier in allocation.vision.tiers 'gptq5': did you mean",
    ),
    "two tiers of a tower": Case(
        "run quantizer.vision=gptq4 allocation.vision.bits=3 allocation.vision.tiers=[gptq2,gptq4] "
        "paths.outputs={place}",
        "set quantizer.vision=null",
    ),
    "too few bits of the tower": Case(
        "run allocation.vision.bits=2 allocation.vision.tiers=[gptq4,gptq2] paths.outputs={place}",
        "every block in gptq2 takes 2.141 stored bits per weight or more",
    ),
    "a planned tower without images": Case(
        "run calibration=text allocation.vision.bits=3 allocation.vision.tiers=[gptq4,gptq2] "
        "paths.outputs={place}",
        "no images by which the errors of blocks could be measured",
    ),
    # Outputs that cannot be written.
    "outputs a file": Case("run paths.outputs={place}/file", "a file stands where", A_FILE),
    "outputs in a file": Case("run -m seed=0,1 paths.outputs={place}/file/x", "a file", A_FILE),
    "outputs too long": Case(f"run paths.outputs={{place}}/{LONG}", "a shorter name"),
    "outputs in /proc": Case("run paths.outputs=/proc/luq", "/proc/luq"),
    "sweep to a file": Case("sweep card paths.outputs={place}/file", "a file stands", A_FILE),
    "data to a file": Case("pocket data {place}/file", "a file stands", A_FILE),
    "training in a file": Case("pocket train {place}/file --steps 2", "a file stands", A_FILE),
    "report to a file": Case(
        "report --outputs {outputs} --to {place}/file", "a file stands", A_FILE
    ),
    # Names of what is not there.
    "rescore no sweep": Case("rescore smal --outputs {outputs}", "did you mean small"),
    "rescore nothing": Case("rescore --outputs {place}", "holds no records"),
    "rescore above": Case("rescore ../x --outputs {outputs}", "unknown sweep"),
    "report no sweep": Case("report smal --outputs {outputs}", "no sweep 'smal'"),
    "report above": Case("report ../../x --outputs {outputs}", "a plain name"),
    "report of a file": Case("report --outputs {place}/file", "no finished run", A_FILE),
    "status no sweep": Case("status paretto", "did you mean pareto"),
    "status above": Case("status ../x", "unknown sweep"),
    "export no sweep": Case("export smal/x {place}/x --outputs {outputs}", "did you mean small"),
    "export no run": Case("export small/x {place}/x --outputs {outputs}", "unknown run"),
    "export a pattern": Case("export * {place}/x --outputs {outputs}", "begins with '*'"),
    "compare no run": Case("compare small/x small/y --outputs {outputs}", "unknown run"),
    "compare above": Case("compare ../../x/y z --outputs {outputs}", "unknown sweep"),
    "clean no sweep": Case("store clean --sweep smal --outputs {outputs}", "did you mean small"),
    "store of nothing": Case("store verify --outputs {place}/none", "does not exist"),
    # Folders that were not exported, or are damaged.
    "info of nothing": Case("info {place}/none", "luq.json is missing"),
    "info of a file": Case("info {place}/file", "luq.json is missing", A_FILE),
    "info of no JSON": Case("info {place}", "damaged", write("luq.json", b"\xff\xfe\x00")),
    "info of deep JSON": Case("info {place}", "damaged", write("luq.json", b"[" * 10**6)),
    "info of NaN": Case("info {place}", "NaN", write("luq.json", b'{"file_bytes": NaN}')),
    "info of a folder": Case(
        "info {place}", "luq.json is missing", lambda place: (place / "luq.json").mkdir()
    ),
    "info --verify without": Case(
        "info {place} --verify", "damaged", write("luq.json", b'{"format_version": 1}')
    ),
    "chat with nothing": Case("chat {place}/none --image {place}/x --question x", "missing"),
    "export over a file": Case("export {key} {place}/file --outputs {outputs}", "exists", A_FILE),
    "export into a file": Case(
        "export {key} {place}/file/x --outputs {outputs}", "a file stands", A_FILE
    ),
    "export to the root": Case("export {key} / --outputs {outputs}", "give a folder"),
    # Checkpoints that are none.
    "no config": Case("run model.path={place} paths.outputs={place}/o", "missing"),
    "broken config": Case(
        "run model.path={place} paths.outputs={place}/o",
        "config.json cannot be read",
        lambda place: broken_config(place),
    ),
    "broken index": Case(
        "run model.path={place}/m paths.outputs={place}/o",
        "index.json",
        lambda place: broken_index(place / "m"),
    ),
    "model a file": Case(
        "run model.path={place}/file paths.outputs={place}/o", "is no folder", A_FILE
    ),
}


def broken_config(folder: Path) -> None:
    """A checkpoint whose config is no JSON."""
    from luq.pocket.shipped import WEIGHTS

    shutil.copytree(WEIGHTS / "pocket_llava", folder, dirs_exist_ok=True)
    (folder / "config.json").write_text("{")


def broken_index(folder: Path) -> None:
    """A checkpoint whose index is no JSON."""
    from luq.pocket.shipped import WEIGHTS

    shutil.copytree(WEIGHTS / "pocket_llava", folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one small run leaves, in a folder whose name looks like markup."""
    folder = tmp_path_factory.mktemp("outputs") / "a[/a] [red]"
    done = luq("run", *SMALL, "checkpoint=true", f"paths.outputs='{folder}'")
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace("\n", "")
    assert f"Record: {folder}/runs/" in said
    assert f"checkpoint: {folder}/checkpoints/" in said
    return folder


def listing(folder: Path) -> list[str]:
    """The files below a folder, but for locks, logs, failures and what Hydra notes."""
    names: list[str] = []
    for path in sorted(folder.rglob("*")):
        is_passing = path.suffix in (".lock", ".log") or path.name in ("multirun.yaml", JOURNAL)
        is_passing = is_passing or path.parent.name == "failed"
        if path.is_file() and not is_passing:
            names.append(str(path))
    return names


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_screen(outputs: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    case.prepare(tmp_path)
    before = listing(outputs) + listing(tmp_path)
    key = next(outputs.glob("runs/*")).name
    places = {"outputs": outputs, "place": tmp_path, "key": key}
    done = luq(*(word.format(**places) for word in case.words.split(" ")))
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2), said
    assert case.said in " ".join(said.split()), said
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert len(said.splitlines()) <= SCREEN
    assert listing(outputs) + listing(tmp_path) == before


SWEEPS = {
    "no YAML": "grid: [",
    "a list": "- a",
    "nothing": "",
    "no about": "grid:\n  - seed: 0,1",
    "no grid": "about: x",
    "grid no list": "about: x\ngrid: 3",
    "parts no tables": "about: x\ngrid: [3]",
    "values no text": "about: x\ngrid:\n  - seed: [0, 1]",
    "base no list": "about: x\nbase: seed=1\ngrid:\n  - seed: 0,1",
    "base no override": "about: x\nbase: [seed]\ngrid:\n  - seed: 0,1",
    "another entry": "about: x\ngird:\n  - seed: 0,1",
    "deep": "a: " + "[" * 3000,
}


@pytest.mark.parametrize("content", SWEEPS.values(), ids=SWEEPS)
def test_one_broken_sweep_does_not_break_the_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(content)
    done = luq("sweep", "--config-dir", str(tmp_path))
    assert "pareto" in done.stdout
    assert "mine.yaml" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr
    words = ("--config-dir", str(tmp_path), f"paths.outputs={tmp_path / 'outputs'}")
    done = luq("sweep", "mine", *words)
    assert done.returncode == 1
    assert "mine.yaml" in done.stderr.replace("\n", "")


def test_one_altered_record_does_not_stop_a_report(tmp_path: Path) -> None:
    from pipelines import runs_folder

    for record in ladder():
        runs_folder.write(tmp_path, record)
    files = sorted((tmp_path / "runs").glob("*/result.json"))
    content = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(content | {"mean_score": float("nan")}))
    content = json.loads(files[1].read_text())
    without_seal = {name: content[name] for name in content if name not in ("seal", "digest")}
    files[1].write_text(json.dumps(without_seal | {"memory": [1]}))
    files[2].write_bytes(b"[" * 10**6)
    done = luq("report", "--outputs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for file in files[:3]:
        assert file.parent.name in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "line", [b"[1]", b"{}", b'{"id": 1}', b'"x"', b'{"id": "a", "text": 1}', b"\xff", b"[" * 10**5]
)
def test_answers_under_way_that_are_none_are_asked_again(tmp_path: Path, line: bytes) -> None:
    from luq.evaluation.predictions import Predictions

    file = tmp_path / "partial.jsonl"
    first = json.dumps(sealed({"id": 0, "text": "yes"})).encode()
    file.write_bytes(first + b"\n" + line + b"\n")
    assert list(Predictions(file).rows) == [0]
    assert file.read_bytes() == first + b"\n"


def test_an_exported_folder_cannot_command_the_terminal(outputs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(next(outputs.glob("checkpoints/*")), tmp_path / "\x1b[2J[/a]"))
    about = json.loads((folder / "luq.json").read_text())
    hostile = {
        "allocation": "\x1b]0;owned\x07[/a]",
        "command": "\x1b[2J\u202e",
        "scores": {"\x9b31m[red]": 1.0},
        "ledger": {"[/b]\x1b": about["file_bytes"]},
    }
    (folder / "luq.json").write_text(json.dumps(sealed(about | hostile)))
    done = luq("info", str(folder))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x9b" not in done.stdout
    for piece in ("␛]0;owned", "␛[2J�", "�31m[red] 1.0", "[/b]␛"):
        assert piece in done.stdout
    done = luq("info", str(folder), "--verify")
    assert done.returncode == 0, done.stderr


def test_a_terminal_of_few_characters_shows_numbers(outputs: Path) -> None:
    done = process(
        f"PYTHONIOENCODING=ascii luq info '{next(outputs.glob('checkpoints/*'))}'", outputs
    )
    assert done.returncode == 0, done.stderr
    done = process("PYTHONIOENCODING=ascii luq rescore größer", outputs)
    assert done.returncode == 1
    assert "gr\\xf6\\xdfer" in done.stderr


def process(
    command: str, outputs: Path, limit: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """A command in a shell, `luq` being this checkout's.

    Args:
        command: With pipes and redirections.
        outputs: LUQ_OUTPUTS.
        limit: Bytes that a file may have at most.
    """

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    root = Path(__file__).parents[2]
    script = f'set -o pipefail; luq() {{ "{sys.executable}" -m pipelines.cli "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=root,
        env=os.environ | {"LUQ_OUTPUTS": str(outputs)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )


@pytest.mark.parametrize(
    "command",
    [
        "luq status card | head -1",
        "luq status card | true",
        "luq --help | true",
        "luq status card >&-",
        "luq status card >&- 2>&- <&-",
        "luq status card > /dev/full",
        "luq store du > /dev/full",
        "luq store clean < /dev/null",
    ],
)
def test_streams_that_end_or_are_closed(outputs: Path, command: str) -> None:
    done = process(command, outputs)
    assert done.returncode in (0, 1, 130)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_what_is_printed_to_a_closed_stdout_is_in_no_file(outputs: Path, tmp_path: Path) -> None:
    done = process(f"luq pocket data {tmp_path} >&- 2>&-", outputs)
    assert done.returncode == 0
    for file in tmp_path.iterdir():
        assert file.read_bytes()[:4] == b"PAR1"


def test_a_full_disk_is_said_and_the_run_goes_on_later(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    words = " ".join(f"'{word}'" for word in SMALL)
    command = f"luq run {words} paths.outputs={tmp_path}"
    done = process(command, tmp_path, limit=300_000)
    assert done.returncode == 1
    assert "file too large; files of this size are not allowed" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("store/*/.*tmp*"))
    done = luq("run", *SMALL, f"paths.outputs={tmp_path}")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o500)
    done = luq("run", *SMALL, f"paths.outputs={tmp_path / 'outputs'}")
    assert done.returncode == 1
    assert "you have no right to it" in done.stderr.replace("\n", " ")


def test_a_damaged_note_of_a_failure_does_not_hide_the_other_runs(tmp_path: Path) -> None:
    words = ("card", f"paths.outputs={tmp_path}")
    job = Sweep(grid.read("card"), [words[1]]).possible[0]
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / f"{job.key}.json").write_text("{")
    done = luq("status", *words)
    assert done.returncode == 0, done.stderr
    assert "4 missing" in done.stdout
    assert f"{job.key}.json cannot be read" in done.stdout.replace("\n", "")


def test_names_that_nobody_can_type_are_not_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import cli, runs_folder
    from pipelines.completion import candidates

    monkeypatch.setenv("LUQ_OUTPUTS", str(tmp_path))
    runs_folder.note(tmp_path, "plain", "k1", "run 1")
    runs_folder.note(tmp_path, "plain", "k2", "\x1b[2J")
    (tmp_path / "sweeps" / "plain" / "k3.json").write_text("[" * 100_000)
    assert candidates(["export", "pl"], cli.luq) == ["plain/run 1"]


def test_status_writes_nothing(tmp_path: Path) -> None:
    done = luq("status", "card", f"paths.outputs={tmp_path / 'outputs'}")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
