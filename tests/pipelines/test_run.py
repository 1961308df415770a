"""The whole chain on the pocket model, through the command that people type."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from luq.formats.layer_file import FILE
from pipelines import runs_folder
from tests.pipelines.command import Done
from tests.pipelines.command import luq_to as luq

SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.text_tokens=1024",
]  # fmt: skip


@pytest.fixture(scope="module")
def sweep(outputs: Path) -> Done:
    """Four runs in one multirun; the other tests of this file look at what it left."""
    return luq(
        outputs,
        "run",
        "-m",
        "group=test",
        "allocation.k=0,3",
        "calibration=text,multimodal",
        *SMALL,
    )


def test_a_multirun_leaves_a_record_per_run(sweep: Done, outputs: Path) -> None:
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    records = list(runs_folder.iterate(outputs, "test"))
    assert len(records) == 4
    assert {(r.k, r.config.calibration.name) for r in records} == {
        (k, c) for k in (0, 3) for c in ("text", "multimodal")
    }
    for record in records:
        assert set(record.scores) == set(record.config.evaluation.benchmarks)
        assert all(s.n == 4 for s in record.scores.values())
        assert record.tiers.count("billm") == record.k
        assert record.split == "report"
        assert record.order[:3] == sorted(record.order[:3], key=record.order.index)
        assert {"calibrate", "profile", "quantize", "evaluate"} <= set(record.seconds)
        modalities = {e.modality for e in record.profile}
        assert modalities == (
            {"all", "text"}
            if record.config.calibration.name == "text"
            else {"all", "image", "text"}
        )


def test_the_k_layers_of_lowest_entropy_went_low(sweep: Done, outputs: Path) -> None:
    for record in runs_folder.iterate(outputs, "test"):
        entropy = {e.layer: e.mean for e in record.profile if e.modality == "all"}
        lowest = sorted(entropy, key=lambda layer: entropy[layer])[: record.k]
        assert {i for i, t in enumerate(record.tiers) if t == "billm"} == set(lowest)


def test_stored_bits_equal_the_files_to_the_byte(sweep: Done, outputs: Path) -> None:
    for record in runs_folder.iterate(outputs, "test"):
        files = [outputs / "store" / "layers" / key / FILE for key in record.artefacts.layers]
        total = sum(f.stat().st_size for f in files)
        assert record.memory.stored_bytes == total
        assert record.memory.stored_bits == 8 * total / record.memory.weights
        assert sum(record.memory.ledger.values()) == record.memory.checkpoint_bytes


def test_wandb_itself_reads_the_offline_runs(sweep: Done, outputs: Path) -> None:
    folders = sorted((outputs / "wandb" / "wandb").glob("offline-run-*"))
    assert len(folders) == 4
    program = str(Path(sys.executable).parent / "wandb")
    command = [program, "leet", "inspect", "--summary", "--json", str(folders[0])]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    assert "memory/stored_bits" in text or "stored_bits" in text
    assert "score" in text


def test_the_second_time_everything_comes_from_the_store(sweep: Done, outputs: Path) -> None:
    again = luq(outputs, "run", "allocation.k=3", *SMALL)
    assert again.returncode == 0, again.stderr
    assert " 0 made" in again.stdout
    assert "from the store" in again.stdout


def test_the_table_says_what_was_measured(sweep: Done) -> None:
    for word in ("16-bit", "retention", "nominal", "stored", "textvqa", "Record:"):
        assert word in sweep.stdout
    assert "%|" not in sweep.stderr, "a library's progress bar leaked"


def test_single_stages_share_the_artefacts(sweep: Done, outputs: Path) -> None:
    profiled = luq(outputs, "profile", *SMALL)
    assert profiled.returncode == 0, profiled.stderr
    assert "Activation entropy, bits" in profiled.stdout
    assert "from the store" in profiled.stdout
    quantized = luq(outputs, "quantize", "allocation.k=3", *SMALL)
    assert quantized.returncode == 0, quantized.stderr
    assert "stored" in quantized.stdout
    assert "made" not in quantized.stdout


def test_a_failed_job_does_not_stop_the_others(outputs: Path) -> None:
    done = luq(outputs, "run", "-m", "group=failing", "allocation.k=99,3", "tracking=none", *SMALL)
    assert done.returncode == 1
    assert "allocation.k=99 is not possible: pocket_llava has 10 decoder layers" in done.stderr
    assert len(list(runs_folder.iterate(outputs, "failing"))) == 1
    notes = [json.loads(f.read_text()) for f in (outputs / "failed").glob("*.json")]
    assert [n["error"] for n in notes] == ["ConfigError"]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["model=pocket_lava"], "did you mean pocket_llava"),
        (["quantizer.low=bilm"], "did you mean billm"),
        (["model.path=/nowhere"], "there is no such folder"),
        (["quantizer.tiers.gptq4.group_size=-48"], "quantizer.tiers.gptq4.group_size=-48"),
        (["allocation=threshold", "allocation.entropy_max=99"], "outside the layers' entropies"),
        (["calibration=text", "order.modality=image"], "has no image tokens"),
        (
            [
                "allocation=budget",
                "allocation.bits=0.5",
                "quantizer.low=rtn4",
                "quantizer.high=rtn4",
            ],
            "the smallest plan has 4.",
        ),
        (
            ["allocation=quality", "allocation.drop=1", "evaluation.split=all"],
            "chooses on the selection split needs 'report'",
        ),
    ],
)
def test_errors_are_one_line_and_exit_one(outputs: Path, overrides: list[str], match: str) -> None:
    done = luq(outputs, "run", "tracking=none", *SMALL, *overrides)
    assert done.returncode == 1
    assert match in done.stderr
    assert "Traceback" not in done.stderr


def test_damage_is_named(sweep: Done, outputs: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(outputs, tmp_path / "copy")
    record = next(
        r
        for r in runs_folder.iterate(copy, "test")
        if r.k == 3 and r.config.calibration.name == "multimodal"
    )
    file = copy / "store" / "layers" / record.artefacts.layers[0] / FILE
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    done = luq(copy, "run", "allocation.k=3", "tracking=none", *SMALL)
    assert done.returncode == 1
    assert "does not match its manifest: delete" in done.stderr


def test_interrupted_and_continued(tmp_path: Path) -> None:
    """Ctrl-C in the middle, then kill -9, then the whole run: it ends well, and no torn artefact
    is read.
    """
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        "allocation.k=3",
        "tracking=none",
        *SMALL,
        f"paths.outputs={tmp_path}",
    ]
    for stop in (signal.SIGINT, signal.SIGKILL):
        heard = partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        )  # a shell's background jobs are deaf to Ctrl-C
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
        )
        before = (
            len(list((tmp_path / "store").glob("*/*/manifest.json")))
            if (tmp_path / "store").exists()
            else 0
        )
        for _ in range(600):
            if (
                len(list((tmp_path / "store").glob("*/*/manifest.json"))) > before + 2
                or process.poll() is not None
            ):
                break
            time.sleep(0.1)
        process.send_signal(stop)
        _, errors = process.communicate()
        assert process.returncode != 0
        if stop == signal.SIGINT:
            assert "interrupted" in errors
            assert "Traceback" not in errors
    done = luq(tmp_path, "run", "allocation.k=3", "tracking=none", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "from the store" in done.stdout


def test_calibration_on_real_files_and_never_on_what_is_asked(tmp_path: Path) -> None:
    from datasets import Dataset
    from PIL import Image

    told = {"question": "what is shown?", "answers": ["a"] * 10, "ocr_tokens": []}
    rows = [{"question_id": i, "image": Image.new("RGB", (48, 48 + i)), **told} for i in range(40)]
    for folder, some in (("train", rows[:30]), ("asked", rows[30:])):
        (tmp_path / folder).mkdir()
        Dataset.from_list(some).to_parquet(tmp_path / folder / "textvqa.parquet")
    (tmp_path / "book.txt").write_text(
        " ".join(f"Sentence {i} says how a list is sorted." for i in range(300))
    )
    given = [
        f"calibration.text={tmp_path / 'book.txt'}", "calibration.tokens=1024", "profile.tokens=256", "profile.clusters=10",
        "evaluation.benchmarks=[textvqa]", "evaluation.text_tokens=1024", "tracking=none",
        f"evaluation.data={tmp_path / 'asked'}",
    ]  # fmt: skip
    same = luq(tmp_path / "o", "run", *given, f"calibration.source={tmp_path / 'asked'}")
    assert same.returncode == 1
    assert "give the same textvqa" in same.stderr
    assert not list((tmp_path / "o" / "store").glob("layers/*")), "said before any work"
    ocr = [g.replace("[textvqa]", "[textvqa_ocr]") for g in given]
    same = luq(tmp_path / "o", "run", *ocr, f"calibration.source={tmp_path / 'asked'}")
    assert "give the same textvqa_ocr" in same.stderr, "another prompt, the same questions"
    done = luq(tmp_path / "o", "run", *given, f"calibration.source={tmp_path / 'train'}")
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(tmp_path / "o")
    assert record.config.calibration.source == str(tmp_path / "train")
    assert record.calibration.tokens == pytest.approx(1024, abs=64)
    text = luq(tmp_path / "o", "run", *given, f"evaluation.text={tmp_path / 'book.txt'}")
    assert text.returncode == 1
    assert "another file than evaluation.text" in text.stderr
