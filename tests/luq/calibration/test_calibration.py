import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as DatasetImage
from PIL import Image

from luq.calibration import mixing
from luq.calibration.artefacts import calibration, samples_of
from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import CalibrationConfig, ModelConfig
from luq.errors import DataError
from luq.models.checkpoint import checkpoint
from luq.models.vlm import VLM
from luq.questions import text
from luq.questions.specs import spec
from luq.store.store import Store
from tests.conftest import pocket_samples

POCKET = checkpoint(ModelConfig("pocket_llava", "pocket:pocket_llava", device="cpu"))


def config(alpha: float, **given: object) -> CalibrationConfig:
    return CalibrationConfig(**{"name": "mix", "alpha": alpha, "tokens": 4096, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_alpha_is_met_in_tokens(vlm: VLM, alpha: float) -> None:
    made = pocket_samples(vlm, config(alpha))
    assert made.alpha == pytest.approx(alpha, abs=64 / 4096)
    assert made.tokens == pytest.approx(4096, abs=64)


def test_same_seed_same_set_and_another_seed_another(vlm: VLM) -> None:
    first, second, other = (
        pocket_samples(vlm, config(0.5)),
        pocket_samples(vlm, config(0.5)),
        pocket_samples(vlm, config(0.5, seed=1)),
    )
    assert first.hash == second.hash != other.hash
    assert [s.source for s in first.samples] == [s.source for s in second.samples]


def test_samples_know_their_image_tokens_and_their_source(vlm: VLM) -> None:
    made = pocket_samples(vlm, config(0.5, benchmarks=["chartqa", "docvqa"]))
    pictures = [s for s in made.samples if s.multimodal]
    assert {s.source.split(":")[0] for s in pictures} == {"chartqa", "docvqa"}
    assert all(int(s.image_mask.sum()) == 36 for s in pictures)
    assert all(s.source.startswith("stdlib:") for s in made.samples if not s.multimodal)
    assert len({s.source for s in made.samples}) == len(made.samples)
    token = vlm.model.config.image_token_index
    assert all(torch.equal(s.image_mask, s.input_ids == token) for s in made.samples)


def test_batches_cover_all_tokens_without_padding(vlm: VLM) -> None:
    made = pocket_samples(vlm, config(0.5))
    batches = list(made.batches())
    assert sum(s.tokens for batch in batches for s in batch) == made.tokens
    for batch in batches:
        inputs = inputs_of(batch, vlm.device)
        assert inputs["attention_mask"].all()
        assert inputs["input_ids"].shape == (len(batch), batch[0].tokens)
    assert made.image_mask().sum() == sum(int(s.image_mask.sum()) for s in made.samples)


def test_every_benchmark_can_feed_calibration(vlm: VLM) -> None:
    names = list(vlm.config.benchmarks) or [
        "mme",
        "mmbench",
        "textvqa",
        "vqav2",
        "gqa",
        "pope",
        "chartqa",
        "docvqa",
        "mathvista",
    ]
    made = pocket_samples(vlm, config(1.0, benchmarks=names))
    assert {s.source.split(":")[0] for s in made.samples} == set(names)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder with training questions as a parquet file, and a text file beside it."""
    pictures = [Image.new("RGB", (60 + i, 50), (20 * i, 100, 200)) for i in range(12)]
    rows = [
        {
            "question_id": i,
            "question": f"what colour is number {i}?",
            "answers": ["blue"] * 10,
            "ocr_tokens": [],
            "image": picture,
        }
        for i, picture in enumerate(pictures)
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "textvqa.parquet")
    (tmp_path / "book.txt").write_text(
        " ".join(f"Sentence number {i} is about the shape of things." for i in range(600))
    )
    return tmp_path


def real_config(folder: Path, alpha: float, **given: object) -> CalibrationConfig:
    settings = {
        "source": str(folder),
        "text": str(folder / "book.txt"),
        "tokens": 800,
        "sample_tokens": 64,
        **given,
    }
    return config(alpha, **settings)


def real_samples(vlm: VLM, settings: CalibrationConfig, folder: Path) -> CalibrationSet:
    """The samples of a config, through its artefact."""
    store = Store(folder / "cache")
    store.tools.hold(VLM, (POCKET.digest, POCKET.config), lambda: vlm, alone=True)
    return samples_of(calibration(POCKET, settings, store.root), store.tools)


def test_real_questions_and_passages(vlm: VLM, real: Path, tmp_path: Path) -> None:
    settings = real_config(real, 0.5)
    made = real_samples(vlm, settings, tmp_path)
    assert made.alpha == pytest.approx(0.5, abs=0.06)
    pictures = [s for s in made.samples if s.multimodal]
    assert all(s.source.startswith("textvqa:") and int(s.image_mask.sum()) == 36 for s in pictures)
    assert [s.source for s in pictures] != sorted(s.source for s in pictures), "in a seeded order"
    words = [s for s in made.samples if not s.multimodal]
    assert all(s.source.startswith("book.txt:") for s in words)
    assert len({s.source for s in made.samples}) == len(made.samples)
    again = real_samples(vlm, settings, tmp_path)
    other = real_samples(vlm, real_config(real, 0.5, seed=1), tmp_path)
    assert made.hash == again.hash != other.hash


def test_sources_that_are_too_small_are_named(vlm: VLM, real: Path, tmp_path: Path) -> None:
    for alpha, tokens, told in ((1.0, 4000, "tokens of questions, but"), (0.0, 40000, "too short")):
        settings = real_config(real, alpha, tokens=tokens)
        with pytest.raises(DataError, match=told):
            real_samples(vlm, settings, tmp_path)
    settings = real_config(real, 0.0, sample_tokens=30000, tokens=30000)
    with pytest.raises(DataError, match="fewer than one sample"):
        real_samples(vlm, settings, tmp_path)
    with pytest.raises(DataError, match="neither 'pocket', 'wikitext' nor a text file"):
        real_samples(vlm, real_config(real, 0.0, text=str(real / "nothing.txt")), tmp_path)


def test_a_picture_that_does_not_decode_is_left_out(
    vlm: VLM, real: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = (
        Dataset.from_parquet(str(real / "textvqa.parquet"))
        .cast_column("image", DatasetImage(decode=False))
        .to_list()
    )
    table[3]["image"] = {"bytes": b"nothing", "path": None}
    features = Features(
        {**Dataset.from_parquet(str(real / "textvqa.parquet")).features, "image": DatasetImage()}
    )
    Dataset.from_list(table, features=features).to_parquet(real / "textvqa.parquet")
    settings = real_config(real, 1.0, tokens=500)
    made = real_samples(vlm, settings, tmp_path)
    assert "textvqa:3" not in {s.source for s in made.samples}
    assert made.tokens == pytest.approx(500, abs=40)


def test_a_source_without_end_of_which_nothing_can_be_asked_ends(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("no image like this")

    monkeypatch.setattr(mixing, "encode_chats", refuse)
    monkeypatch.setattr(mixing, "MOST_LEFT_OUT", 3)
    with pytest.raises(
        DataError, match=r"3 questions one after another cannot be asked.*like this"
    ):
        pocket_samples(vlm, CalibrationConfig("multimodal", alpha=1.0, tokens=512))


def test_what_the_set_is_made_from_is_in_its_key(real: Path, tmp_path: Path) -> None:
    settings = real_config(real, 0.5)
    before = calibration(POCKET, settings, tmp_path / "cache")
    (real / "book.txt").write_text("Another book. " * 900)
    after = calibration(POCKET, settings, tmp_path / "cache")
    assert before.questions == after.questions
    assert before.text != after.text
    assert before != after
    moved = tmp_path / "moved"
    shutil.copytree(real, moved, ignore=shutil.ignore_patterns("cache", "moved"))
    assert calibration(POCKET, real_config(moved, 0.5), tmp_path / "cache") == after


def test_only_benchmarks_with_a_training_split_calibrate_from_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mme has no training split on the hub"):
        calibration(POCKET, config(0.5, source="hub", benchmarks=["mme"]), tmp_path)
    assert calibration(POCKET, config(0.0, source="hub"), tmp_path).questions is None


def test_samples_that_are_not_those_of_the_store_are_refused(vlm: VLM, tmp_path: Path) -> None:
    settings = config(0.0, tokens=512)
    artefact = calibration(POCKET, settings, tmp_path)
    store = Store(tmp_path)
    store.tools.hold(VLM, (POCKET.digest, POCKET.config), lambda: vlm, alone=True)
    summary = store.get(artefact)
    assert summary.tokens == 512
    assert store.get(artefact).hash == samples_of(artefact, store.tools).hash
    file = store.folder(artefact) / "calibration.json"
    file.write_text(file.read_text().replace(summary.hash, "0" * 16))
    store.tools.release(CalibrationSet)
    with pytest.raises(DataError, match="the calibration set has another content"):
        samples_of(artefact, store.tools)


def test_calibration_and_report_never_share_a_text() -> None:
    assert text.WIKITEXT_SPLITS["calibration"] != text.WIKITEXT_SPLITS["report"]
    assert spec("textvqa").calibration not in (None, spec("textvqa").split)
