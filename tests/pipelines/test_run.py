"""The whole chain on the pocket model, through the command that people type."""

import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from luq.config import ProfileConfig
from luq.formats.layer_file import FILE
from pipelines import runs_folder
from pipelines.record import from_json, to_json
from tests.pipelines.command import Done
from tests.pipelines.command import luq as command_luq
from tests.pipelines.command import luq_to as luq

# The high tier is searched less than by default, which takes a third of the time: the wheel's own
# test runs the default tiers.
SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.text_tokens=1024", "quantizer.tiers.gptq4.clip_steps=0",
    "quantizer.tiers.gptq4.descent=0",
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
        assert {"calibrate", "quantize", "evaluate"} <= set(record.seconds)
        assert ("profile" in record.seconds) == (record.k > 0)
        modalities = {e.modality for e in record.profile}
        if record.k == 0:
            assert record.order == []
            assert not modalities, "no layer had to be chosen"
            continue
        assert record.order[:3] == sorted(record.order[:3], key=record.order.index)
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
    assert "order of entropy, measured again on the same samples: Kendall's tau" in " ".join(
        profiled.stdout.split()
    )
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
        (["model=pocket_llava", "model.path=/nowhere"], "there is no such folder"),
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


def textvqa(folder: Path, rows: list[dict[str, Any]], name: str = "textvqa") -> Path:
    """A folder with a table of questions; the folder."""
    from datasets import Dataset

    folder.mkdir()
    Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    return folder


def questions(count: int) -> list[dict[str, Any]]:
    from PIL import Image

    common = {"question": "what is shown?", "answers": ["a"] * 10, "ocr_tokens": []}
    rows = []
    for index in range(count):
        picture = Image.new("RGB", (48, 48 + index))
        rows.append({"question_id": index, "image": picture, **common})
    return rows


ON_FILES = [
    "calibration.tokens=1024", "profile.tokens=256", "profile.clusters=10", "evaluation.benchmarks=[textvqa]",
    "evaluation.text_tokens=1024", "tracking=none", "quantizer.high=rtn4",
]  # fmt: skip


def book(file: Path, subject: str) -> Path:
    sentences = [f"Sentence {i} says how the {subject} of {i + 1} is sorted." for i in range(300)]
    file.write_text(" ".join(sentences), encoding="utf-8")
    return file


def test_calibration_on_real_files_and_never_on_what_is_asked(tmp_path: Path) -> None:
    rows = questions(40)
    textvqa(tmp_path / "train", rows[:30])
    textvqa(tmp_path / "asked", rows[30:])
    text = book(tmp_path / "book.txt", "list")
    given = [
        *ON_FILES,
        f"calibration.text={text}",
        f"evaluation.data={tmp_path / 'asked'}",
    ]
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
    refused = luq(tmp_path / "o", "run", *given, f"evaluation.text={text}")
    assert refused.returncode == 1
    assert "another file than evaluation.text" in refused.stderr


def test_a_copy_of_a_text_is_refused_before_any_work(tmp_path: Path) -> None:
    text = book(tmp_path / "book.txt", "list")
    copy = tmp_path / "copy.txt"
    copy.write_text(text.read_text().replace(". ", ".\r\n\r\n").upper())
    texts = [f"calibration.text={text}", f"evaluation.text={copy}", "evaluation.text_tokens=1024"]
    refused = luq(tmp_path / "o", "run", *texts, "tracking=none")
    assert refused.returncode == 1
    assert f"calibration.text={text} and evaluation.text={copy} share" in refused.stderr
    assert not (tmp_path / "o" / "store" / "calibration").exists()


@pytest.mark.parametrize("change", ["another name", "one row less", "another order"])
def test_a_copy_of_the_questions_is_refused_before_a_layer_is_made(
    tmp_path: Path, change: str
) -> None:
    rows = questions(12)
    asked = textvqa(tmp_path / "asked", rows)
    copies = {
        "another name": rows,
        "one row less": rows[1:],
        "another order": rows[::-1],
    }
    train = textvqa(tmp_path / "train", copies[change])
    source = train
    if change == "another name":
        source = train / "questions.parquet"
        (train / "textvqa.parquet").rename(source)
        source.write_bytes((asked / "textvqa.parquet").read_bytes())
    refused = luq(
        tmp_path / "o",
        "run",
        *ON_FILES,
        "calibration.tokens=512",
        f"evaluation.data={asked}",
        f"calibration.source={source}",
    )
    assert refused.returncode == 1, refused.stdout
    expected = "give the same textvqa" if change == "another name" else "for example textvqa:"
    assert expected in refused.stderr
    store = tmp_path / "o" / "store"
    assert not (store / "profile").exists()
    assert not (store / "layers").exists()


UNIFORM = [
    "calibration.tokens=1024", "evaluation.benchmarks=[gqa]", "evaluation.samples=4", "evaluation.fidelity=0",
    "evaluation.text_tokens=1024", "tracking=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Two plans of one tier: one that needs no data at all, and one that does."""
    outputs = tmp_path_factory.mktemp("uniform")
    shared = ["group=uniform", *UNIFORM]
    free = luq(outputs, "run", "experiment=float16", "calibration.text=/nowhere.txt", *shared)
    assert free.returncode == 0, free.stderr
    assert not (outputs / "store" / "calibration").exists(), "nothing needs data"
    done = luq(outputs, "run", "experiment=gptq3", *shared)
    assert done.returncode == 0, done.stderr
    return outputs, done


def test_a_uniform_plan_needs_no_profile(uniform: tuple[Path, Done]) -> None:
    outputs, _ = uniform
    assert not (outputs / "store" / "profile").exists()
    records = {record.name.split()[0]: record for record in runs_folder.iterate(outputs)}
    assert records["float16"].calibration is None
    assert records["float16"].artefacts.calibration is None
    assert records["gptq3"].calibration is not None
    assert "calibrate" in records["gptq3"].seconds
    for record in records.values():
        assert (record.profile, record.order, record.layer_scores) == ([], [], {})
        assert record.artefacts.profile is None
        assert "profile" not in record.seconds
    from_json(json.loads(json.dumps(to_json(records["float16"]))))


def test_perplexity_stands_beside_that_of_16_bit(uniform: tuple[Path, Done]) -> None:
    outputs, done = uniform
    records = {record.name.split()[0]: record for record in runs_folder.iterate(outputs)}
    base = records["float16"].perplexity
    packed = records["gptq3"].perplexity
    assert base is not None
    assert packed is not None
    assert base.ratio == (1, 1, 1)
    assert packed.float_value == base.float_value == base.value
    assert packed.ratio is not None
    assert packed.ratio.mean == pytest.approx(packed.value / base.value)
    assert 1 < packed.ratio.low < packed.ratio.mean < packed.ratio.high
    own_width = math.log(packed.high / packed.low)
    paired_width = math.log(packed.ratio.high / packed.ratio.low)
    assert paired_width < own_width / 3, "the passages' own difficulty cancels"
    words = " ".join(done.stdout.split())
    assert f"perplexity {packed.value:.2f} (" in words
    assert f"16-bit {base.value:.2f}: {packed.ratio.mean:.3f} times (" in words
    # a command that is to be copied stays whole, whatever it takes
    prose = [line for line in done.stdout.splitlines() if " luq " not in line]
    assert max(len(line) for line in prose) <= 80


def test_a_report_of_runs_without_profile_and_calibration(uniform: tuple[Path, Done]) -> None:
    outputs, _ = uniform
    done = command_luq("report", "uniform", "--outputs", str(outputs))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_shared_by_two_runs_is_not_what_they_do_not_need(
    uniform: tuple[Path, Done],
) -> None:
    outputs, _ = uniform
    other_seed = ["seed=5", "evaluation.seed=0"]
    again = luq(outputs, "run", "experiment=float16", "group=uniform", *other_seed, *UNIFORM)
    assert again.returncode == 0, again.stderr
    assert " 0 made" in again.stdout


def test_settings_that_a_plan_does_not_read_are_named(outputs: Path) -> None:
    """Runs of several plans share a command line."""
    words = ["profile.clusters=20", "profile.seeds=2", "quantizer.high=rtn4", "evaluation.fidelity=0",
             "evaluation.samples=4", "evaluation.text_tokens=0", "evaluation.benchmarks=[gqa]"]  # fmt: skip
    done = luq(outputs, "run", "allocation=uniform", "group=unread", *words)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "no effect: profile.clusters, profile.seeds (for plans that choose layers" in said
    (record,) = runs_folder.iterate(outputs, "unread")
    assert record.config.profile == ProfileConfig()
