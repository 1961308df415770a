"""What a user does with a packed model: write it with the run or later, look into it, ask it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from luq.evaluation.answers import ANSWERS
from luq.evaluation.predictions import read_answers
from luq.export.checksums import NEVER, VARIABLE
from luq.pocket import benchmarks
from luq.questions.pictures import decoded
from luq.questions.prompts import PROMPTS
from pipelines import runs_folder
from pipelines.record import RunRecord, to_json
from tests.luq.models.edited import Tensors, change_tensors
from tests.pipelines.command import Done
from tests.pipelines.command import luq as command_luq

UP_CODES = "language_model.model.layers.3.mlp.up_proj.codes"
SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2", "evaluation.samples=12",
    "evaluation.fidelity=0", "evaluation.text_tokens=1024", "evaluation.benchmarks=[gqa]", "evaluation.batch_size=1",
    "tracking=none", "allocation.k=3", "order=depth", "group=small", "model.do_pad=true", "quantizer.high=rtn4",
]  # fmt: skip


def luq(*arguments: str) -> Done:
    return command_luq(*arguments, width=160)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    outputs = tmp_path_factory.mktemp("checkpoints")
    done = luq("run", *SMALL, "checkpoint=true", f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(outputs)
    assert f"checkpoints/{record.key}" in done.stdout.replace("\n", "")
    return outputs, record


def test_the_folder_answers_what_the_run_scored(
    ran: tuple[Path, RunRecord], tmp_path: Path
) -> None:
    from luq.questions.sources import evaluation_table
    from luq.store.store import Store
    from pipelines.chat import answer, load

    outputs, record = ran
    model, processor = load(outputs / "checkpoints" / record.key, "cpu")
    assert processor.image_processor.do_pad, "images are prepared as the run prepared them"
    store = Store(outputs / "store")
    questions = evaluation_table("gqa", record.config.evaluation, store.root).open(store.tools)
    rows = read_answers(
        outputs / "store" / "evaluation" / record.artefacts.answers["gqa"] / ANSWERS
    )
    assert len(rows) == 12
    for row in rows:
        questions.image(row["id"]).convert("RGB").save(tmp_path / "image.png")
        asked = PROMPTS["gqa"](questions.docs[row["id"]])
        assert answer(model, processor, tmp_path / "image.png", asked, 16) == row["text"].strip()


def test_a_chat_sees_pictures_upright_and_takes_text_for_text(
    ran: tuple[Path, RunRecord], tmp_path: Path
) -> None:
    from PIL import Image

    from pipelines.chat import answer, load

    outputs, record = ran
    model, processor = load(outputs / "checkpoints" / record.key, "cpu")
    row = benchmarks.build("textvqa", "selection", bases=1)[0]
    upright = decoded(row["image"]["bytes"])
    upright.save(tmp_path / "upright.png")
    quarter_turn = Image.Exif()
    quarter_turn[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=quarter_turn)
    question = PROMPTS["textvqa"](row)
    said = answer(model, processor, tmp_path / "upright.png", question, 16)
    assert said == answer(model, processor, tmp_path / "turned.png", question, 16)
    assert isinstance(answer(model, processor, tmp_path / "upright.png", "An <image>?", 4), str)


def test_export_info_and_chat(ran: tuple[Path, RunRecord], tmp_path: Path) -> None:
    from PIL import Image

    outputs, record = ran
    name = f"small/{record.name}"
    done = luq("export", name, str(tmp_path / "model"), "--outputs", str(outputs))
    assert done.returncode == 0, done.stderr
    first = outputs / "checkpoints" / record.key
    for file in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "model" / file).read_bytes() == (first / file).read_bytes()
    told = luq("info", str(first), "--verify")
    assert told.returncode == 0, told.stderr
    for piece in (
        record.allocation,
        "sum of the ledger",
        f"{record.memory.stored_bits:.3f} bits",
        "luq run",
        "bytes are what was exported",
    ):
        assert piece in told.stdout
    card = (first / "README.md").read_text()
    assert record.command in card
    assert "| gqa | 12 |" in card
    Image.new("RGB", (48, 48), "white").save(tmp_path / "white.png")
    said = luq(
        "chat",
        str(first),
        "--image",
        str(tmp_path / "white.png"),
        "--question",
        "How many shapes are there?",
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
    (tmp_path / "not.png").write_text("x")
    said = luq("chat", str(first), "--image", str(tmp_path / "not.png"), "--question", "?")
    assert said.returncode == 1
    assert "not.png: the image does not decode" in said.stderr.replace("\n", " ")


def test_files_for_llama_cpp(ran: tuple[Path, RunRecord], tmp_path: Path) -> None:
    """BiLLM's codes have no GGUF type, gptq4's have."""
    outputs, record = ran
    words = ("export", record.key, str(tmp_path / "files"), "--outputs", str(outputs))
    refused = luq(*words, "--format", "gguf")
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "no GGUF type holds weights of billm (" in said
    assert "--recode TYPE" in said
    assert "gptq4" not in said
    elsewhere = luq(*words, "--recode", "q4_0")
    assert elsewhere.returncode == 1
    assert "--recode goes with --format gguf" in elsewhere.stderr
    assert not (tmp_path / "files").exists()
    done = luq(*words, "--format", "gguf", "--recode", "q4_0")
    assert done.returncode == 0, done.stderr
    assert "coded again: billm in q4_0" in done.stdout
    assert "llama-mtmd-cli -m" in done.stdout
    files = {file.name for file in (tmp_path / "files").iterdir()}
    assert files == {"model.gguf", "mmproj.gguf", "luq.json", "README.md"}
    assert luq("info", str(tmp_path / "files"), "--verify").returncode == 0
    reader = gguf.GGUFReader(tmp_path / "files" / "model.gguf")
    assert reader.fields["luq.run_key"].contents() == record.key
    assert reader.fields["luq.is_what_was_scored"].contents() is False
    asked = luq("chat", str(tmp_path / "files"), "--question", "?")
    assert asked.returncode == 1


def test_a_flipped_byte_is_found_by_info_and_before_a_chat(
    ran: tuple[Path, RunRecord], tmp_path: Path
) -> None:
    from PIL import Image

    outputs, record = ran
    folder = shutil.copytree(outputs / "checkpoints" / record.key, tmp_path / "model")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1000] ^= 8
    (folder / "model.safetensors").write_bytes(weights)
    Image.new("RGB", (48, 48), "white").save(tmp_path / "white.png")
    for words in (
        ("info", str(folder), "--verify"),
        ("chat", str(folder), "--image", str(tmp_path / "white.png"), "--question", "?"),
    ):
        done = luq(*words)
        assert done.returncode == 1
        assert "its bytes are not those that were exported" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop(UP_CODES), "layers.3.mlp.up_proj.codes"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "no place for: extra"),
        (
            lambda tensors: tensors.update({UP_CODES: tensors[UP_CODES][:3].clone()}),
            "the shape [3,",
        ),
    ],
    ids=["missing", "left over", "cut"],
)
def test_a_folder_whose_tensors_are_not_the_model_s_is_not_asked(
    ran: tuple[Path, RunRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Tensors], Any],
    words: str,
) -> None:
    """As a stranger may hand it over, who can compute checksums as well as we."""
    from PIL import Image

    monkeypatch.setenv(VARIABLE, NEVER)
    outputs, record = ran
    folder = shutil.copytree(outputs / "checkpoints" / record.key, tmp_path / "model")
    change_tensors(folder, change)
    Image.new("RGB", (48, 48), "white").save(tmp_path / "white.png")
    done = luq("chat", str(folder), "--image", str(tmp_path / "white.png"), "--question", "?")
    assert done.returncode == 1
    assert words in done.stderr.replace("\n", " ")


def test_bad_input(ran: tuple[Path, RunRecord], tmp_path: Path) -> None:
    outputs, record = ran
    for arguments, piece in (
        (("export", "small/nobody", str(tmp_path / "x")), "unknown run of sweep 'small'"),
        (("export", record.key, str(outputs)), "exists"),
    ):
        done = luq(*arguments, "--outputs", str(outputs))
        assert done.returncode == 1
        assert piece in done.stderr
    done = luq(
        "run",
        *SMALL,
        "model=pocket_llava",
        f"model.path={outputs / 'checkpoints' / record.key}",
        f"paths.outputs={outputs}",
    )
    assert done.returncode == 1
    assert "already quantized (luq)" in done.stderr.replace("\n", " ")
    file = outputs / "runs" / record.key / runs_folder.FILE
    kept = file.read_text()
    file.write_text(json.dumps(to_json(record) | {"model_fingerprint": "other"}))
    done = luq("export", record.key, str(tmp_path / "x"), "--outputs", str(outputs))
    file.write_text(kept)
    assert done.returncode == 1
    assert "is not the checkpoint that the run" in done.stderr
