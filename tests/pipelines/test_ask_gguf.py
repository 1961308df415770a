"""A folder for llama.cpp, asked there what its run was asked."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from luq.errors import ConfigError, DataError
from luq.evaluation import fidelity
from luq.evaluation.agreement import agreement
from luq.evaluation.answers import read_kept, rows_of
from luq.evaluation.artefacts import FirstTokens
from luq.evaluation.predictions import IMAGE
from luq.graph import question_set
from luq.models.checkpoint import checkpoint
from luq.questions.subsets import choose
from luq.questions.tables import Questions
from luq.store.store import Store
from pipelines import runs_folder, shipped, store_commands
from pipelines.record import RunRecord
from tests.pipelines.command import luq

PLACES = 36  # image tokens of a pocket picture


class Shipped(NamedTuple):
    outputs: Path
    record: RunRecord
    folder: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    outputs = tmp_path_factory.mktemp("shipped")
    words = ["experiment=float16", "evaluation.benchmarks=[gqa]", "evaluation.samples=6"]
    words += ["evaluation.fidelity=0", "evaluation.text_tokens=0", "tracking=none", "group=ship"]
    done = luq("run", *words, "model=pocket_qwen", f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(outputs)
    folder = outputs / "folder"
    done = luq("export", record.key, str(folder), "--format", "gguf", "--outputs", str(outputs))
    assert done.returncode == 0, done.stderr
    return Shipped(outputs, record, folder)


def first_tokens(exported: Shipped) -> FirstTokens:
    config = exported.record.config
    questions = question_set(config.evaluation, exported.outputs / "store")
    layers = tuple(exported.record.artefacts.layers)
    return FirstTokens(
        checkpoint(config.model),
        layers,
        (),
        questions.tables["gqa"],
        questions.subset,
        questions.batching,
    )


def test_what_a_run_would_say_first_is_where_its_answers_begin(exported: Shipped) -> None:
    from luq.models.processors import load_processor

    store = Store(exported.outputs / "store")
    artefact = first_tokens(exported)
    rows = store.get(artefact)
    answers = rows_of(read_kept(store.path("evaluation", exported.record.artefacts.answers["gqa"])))
    model = artefact.checkpoint
    tokenizer = load_processor(model.folder, "qwen2_5_vl", model.config).tokenizer
    assert [row["id"] for row in rows] == [answer["id"] for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert row["tokens"].count(IMAGE) == PLACES
        first = tokenizer.decode(row["top"][0])
        assert answer["text"].startswith(first), (answer["text"], first)
        assert row["logs"] == sorted(row["logs"], reverse=True)


def test_a_batch_of_which_no_picture_decodes_has_no_first_tokens(
    exported: Shipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Questions, id_: int) -> None:
        raise DataError("the image does not decode")

    artefact = first_tokens(exported)
    questions = artefact.table.open(Store(exported.outputs / "store").tools)
    ids = choose(questions, artefact.subset)
    assert len(ids) == 6
    monkeypatch.setattr(Questions, "image", broken)
    unused: Any = None  # no model is asked
    assert list(fidelity.first_tokens(unused, questions, ids)) == []


def test_a_run_agrees_with_itself(exported: Shipped) -> None:
    store = Store(exported.outputs / "store")
    first = store.get(first_tokens(exported))
    answers = rows_of(read_kept(store.path("evaluation", exported.record.artefacts.answers["gqa"])))
    with_prompts = [
        {**answer, "prompt": prompt} for answer, prompt in zip(answers, first, strict=True)
    ]
    seen = agreement(answers, with_prompts, first)  # type: ignore[arg-type]
    assert (seen.n, seen.same_answers, seen.prompts, seen.same_prompts) == (6, 6, 6, 6)
    assert seen.kl is not None
    assert seen.kl.score == pytest.approx(0, abs=1e-12)


def test_what_llama_cpp_is_known_to_compute_otherwise_stands_in_the_folder(
    exported: Shipped,
) -> None:
    about = json.loads((exported.folder / "luq.json").read_text(encoding="utf-8"))
    assert any(
        "windows have 36 pixels, and llama.cpp's have 112" in d for d in about["differences"]
    )
    card = (exported.folder / "README.md").read_text(encoding="utf-8")
    assert "Known to differ: the tower's windows have 36 pixels" in card


def test_folders_that_cannot_be_asked_are_refused_before_any_work(
    exported: Shipped, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported.folder, folder)
    with pytest.raises(ConfigError, match=r"is not in .*other: give the folder of its runs"):
        shipped.run_of(tmp_path / "other", folder, shipped.checked(folder))
    with pytest.raises(ConfigError, match="was not asked yet: luq evaluate --gguf"):
        shipped.find(exported.outputs, folder)
    with (folder / "model.gguf").open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte[0] ^ 1]))
    done = luq("compare", exported.record.key, str(folder), "--outputs", str(exported.outputs))
    assert "model.gguf: its bytes are not those that were exported" in done.stderr.replace(
        "\n", " "
    )
    native = tmp_path / "native"
    assert luq("export", exported.record.key, str(native), "--outputs", str(exported.outputs)).returncode == 0  # fmt: skip
    with pytest.raises(ConfigError, match="was exported as luq: --gguf asks what"):
        shipped.checked(native)


def test_gguf_takes_no_settings() -> None:
    done = luq("evaluate", "--gguf", "x", "evaluation=smoke")
    assert done.returncode != 0
    assert "leave evaluation=smoke out" in done.stderr
    done = luq("evaluate", "evaluation=smoke", "--outputs", "elsewhere")
    assert done.returncode != 0
    assert "say paths.outputs=DIR" in done.stderr


def test_without_llama_cpp_it_is_said_what_to_install(
    exported: Shipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    done = luq("evaluate", "--gguf", str(exported.folder), "--outputs", str(exported.outputs))
    assert done.returncode != 0
    assert "pip install 'luq[gguf]'" in done.stderr.replace("\n", " ")


@pytest.mark.llama_cpp
def test_llama_cpp_answers_as_the_run(exported: Shipped) -> None:
    outputs = ["--outputs", str(exported.outputs)]
    done = luq("evaluate", "--gguf", str(exported.folder), *outputs, width=120)
    assert done.returncode == 0, done.stderr
    (seen,) = shipped.iterate(exported.outputs)
    assert seen.run == exported.record.key
    assert seen.alike_in_all.n == 6
    assert seen.alike_in_all.same_prompts == 6
    assert seen.alike_in_all.same_answers >= 4, "its window is another one"
    assert "known to differ: the tower's windows" in done.stdout
    compared = luq("compare", exported.record.key, str(exported.folder), *outputs, width=120)
    assert compared.returncode == 0, compared.stderr
    assert "same answers" in compared.stdout
    kept = store_commands.contents(exported.outputs)
    assert set(seen.used) <= set(kept.bytes)
    assert not set(seen.used) & set(kept.removable(None)), "`luq store clean` keeps them"
