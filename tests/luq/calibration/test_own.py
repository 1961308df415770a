"""A user's own calibration samples: what is taken, what is refused, and by which words."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from luq.calibration.artefacts import Calibration, own_calibration, samples_of
from luq.calibration.own import OwnSamples, check_own_texts, own_samples
from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig, EvaluationConfig, ModelConfig
from luq.errors import DataError
from luq.models.checkpoint import Checkpoint, checkpoint
from luq.questions.sources import evaluation_table
from luq.questions.tables import Questions
from luq.questions.text import text_source
from luq.store.store import Store
from tests.luq.questions import clones

TEXT = "What is it that one can see here, and which of the things is larger than the others? "


def picture(colour: str = "red") -> Image.Image:
    image = Image.new("RGB", (48, 32), colour)
    image.putpixel((3, 4), (1, 2, 3))
    return image


def encoded(colour: str = "red") -> bytes:
    buffer = BytesIO()
    picture(colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pocket() -> Checkpoint:
    return checkpoint(ModelConfig("pocket_llava", "pocket:pocket_llava", device="cpu"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def calibrated(pocket: Checkpoint, samples: OwnSamples, **settings: Any) -> Calibration:
    config = CalibrationConfig(name="own", alpha=0.3, tokens=4096, **settings)
    return own_calibration(pocket, config, samples)


def made(pocket: Checkpoint, store: Store, rows: Any) -> CalibrationSet:
    return samples_of(calibrated(pocket, own_samples(rows)), store.tools)


def test_an_image_may_be_given_in_any_form(
    tmp_path: Path, pocket: Checkpoint, store: Store
) -> None:
    """A path, bytes, a PIL image, a JSON lines file and a dataset are the same samples."""
    (tmp_path / "a.png").write_bytes(encoded())
    file = tmp_path / "mine.jsonl"
    lines = [json.dumps({"image": "a.png", "text": TEXT}), "", json.dumps({"text": TEXT * 12})]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text_only = {"text": TEXT * 12}
    dataset = datasets.Dataset.from_list(
        [{"image": {"bytes": encoded(), "path": None}, "text": TEXT}, {"image": None, **text_only}]
    ).cast_column("image", datasets.Image())
    forms = {
        "path": [{"image": str(tmp_path / "a.png"), "text": TEXT}, text_only],
        "bytes": [{"image": encoded(), "text": TEXT}, text_only],
        "list": [{"images": [encoded()], "text": TEXT}, {"image": None, **text_only}],
        "file": file,
        "dataset": dataset,
    }
    samples = {name: own_samples(form) for name, form in forms.items()}
    assert len({own.key for own in samples.values()}) == 1
    decoded = own_samples([{"image": picture(), "text": TEXT}, text_only])
    tokens = [
        samples_of(calibrated(pocket, own), store.tools).samples
        for own in (samples["file"], decoded)
    ]
    for from_file, from_memory in zip(*tokens, strict=True):
        assert from_file.input_ids.tolist() == from_memory.input_ids.tolist()
        for name, tensor in from_file.extra.items():
            assert tensor.equal(from_memory.extra[name])


def test_samples_are_taken_whole_and_alpha_is_what_they_hold(
    pocket: Checkpoint, store: Store
) -> None:
    rows = [
        {"image": picture(), "text": TEXT},
        {"text": TEXT * 12},
        {"images": [picture("blue"), picture("green")], "text": "Which is green?"},
    ]
    whole = made(pocket, store, rows)
    assert [sample.source for sample in whole.samples] == ["samples:0", "samples:1", "samples:2"]
    assert [sample.multimodal for sample in whole.samples] == [True, False, True]
    one, _, two = whole.samples
    assert int(two.image_mask.sum()) == 2 * int(one.image_mask.sum())
    assert two.extra["pixel_values"].shape[0] == 2
    assert whole.alpha == (one.tokens + two.tokens) / whole.tokens
    summary = store.get(calibrated(pocket, own_samples(rows)))
    assert (summary.tokens, summary.alpha) == (whole.tokens, whole.alpha)


def test_text_that_spells_a_token_is_text(pocket: Checkpoint, store: Store) -> None:
    rows = [{"text": f"An <image> is no image. {TEXT * 12}"}]
    assert made(pocket, store, rows).alpha == 0


def test_of_the_settings_only_the_weighting_counts(pocket: Checkpoint) -> None:
    own = own_samples([{"text": TEXT}])
    plain = calibrated(pocket, own)
    assert calibrated(pocket, own, seed=3, benchmarks=["gqa"]).key == plain.key
    assert calibrated(pocket, own, weighting="balance").key != plain.key
    assert calibrated(pocket, own_samples([{"text": TEXT + "!"}])).key != plain.key


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ([], "the list of samples holds no calibration sample"),
    "no list": (3, "not int"),
    "no dict": (["text"], "samples:0 is of type str"),
    "another field": ([{"text": "a"}, {"txt": "b"}], r"samples:1: unknown field 'txt': did you mean text"),
    "neither text nor image": ([{"text": " "}], "samples:0 has neither a text nor an image"),
    "both": ([{"image": encoded(), "images": [], "text": "a"}], "image and images"),
    "images that are no list": ([{"images": "a.png"}], "images is of type str"),
    "a text that is none": ([{"text": 5}], "text=5 is of type int"),
    "half a character": ([{"text": "\ud800"}], "samples:0: its text is no Unicode"),
    "a missing file": ([{"text": "a"}, {"image": "/nowhere/a.png"}], "samples:1: image='/nowhere/a.png': there is no file"),
    "a folder": ([{"image": "/"}], "there is no file"),
    "no image": ([{"image": b"text"}], "samples:0: the image does not decode"),
    "half an image": ([{"image": encoded()[:20]}], "samples:0: the image does not decode"),
    "another object": ([{"image": 3.5}], "an image of type float"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_by_its_row(rows: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        own_samples(rows)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "mine.jsonl holds no calibration sample"),
        (b'{"text": "a"}\n{"text": ', "mine.jsonl:2 is no JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"text": "a"}\n["b"]', "mine.jsonl:2 is of type list"),
        (b'{"image": "a.png"}', "mine.jsonl:1: image='a.png': there is no file"),
        (b"[" * 100_000, "mine.jsonl:1 is no JSON"),
    ],
)
def test_a_file_is_refused_by_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=told):
        own_samples(tmp_path / "mine.jsonl")


def test_what_only_a_model_can_say_names_the_row_too(pocket: Checkpoint, store: Store) -> None:
    too_long = [{"text": TEXT * 12}, {"image": picture(), "text": TEXT * 400}]
    with pytest.raises(DataError, match=r"samples:1: its \d+ tokens are more than the context"):
        made(pocket, store, too_long)
    with pytest.raises(DataError, match="at least 256 are needed"):
        made(pocket, store, [{"text": TEXT}])
    half = clones.picture(0)["bytes"]
    half = half[: len(half) // 2]
    cut = [{"text": TEXT * 12}, {"image": half, "text": TEXT}]
    with pytest.raises(DataError, match="samples:1: the image does not decode"):
        made(pocket, store, cut)


def test_a_file_that_changes_on_the_way_is_noticed(
    tmp_path: Path, pocket: Checkpoint, store: Store
) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    own = own_samples([{"image": tmp_path / "a.png", "text": TEXT}, {"text": TEXT * 12}])
    (tmp_path / "a.png").write_bytes(encoded("blue"))
    with pytest.raises(DataError, match=r"samples:0: .*changed since"):
        samples_of(calibrated(pocket, own), store.tools)


def test_questions_that_are_asked_are_found_among_the_samples(tmp_path: Path) -> None:
    questions = [f"What colour is number {index}?" for index in range(4)]
    pngs = [clones.picture(index)["bytes"] for index in range(4)]
    columns = {
        "question_id": [0, 1, 2, 3],
        "question": questions,
        "answers": [["red"]] * 4,
        "ocr_tokens": [["a"]] * 4,
    }
    images = [{"bytes": encoded_image, "path": None} for encoded_image in pngs]
    asked = datasets.Dataset.from_dict({**columns, "image": images})
    asked.cast_column("image", datasets.Image()).to_parquet(tmp_path / "textvqa.parquet")
    config = EvaluationConfig(name="e", benchmarks=["textvqa"], data=str(tmp_path), split="all")
    table = evaluation_table("textvqa", config, tmp_path / "cache")
    opened: Questions = table.open(Store(tmp_path / "store").tools)
    as_bmp = BytesIO()
    Image.open(BytesIO(pngs[2])).convert("RGB").save(as_bmp, "BMP")
    own = own_samples(
        [
            {"image": pngs[0], "text": "what colour is NUMBER 1?"},  # another image
            {"image": as_bmp.getvalue(), "text": f"{questions[2]}\nAnswer with one word."},
            {"text": questions[3]},
        ]
    )
    assert own.shared_with(opened, range(4)) == [("textvqa:2", "samples:1")]
    assert own.shared_with(opened, [0, 1, 3]) == []


def test_texts_are_compared_with_the_text_for_perplexity(tmp_path: Path) -> None:
    words = [f"w{index}" for index in range(120)]
    (tmp_path / "report.txt").write_text(" ".join(words), encoding="utf-8")
    report = text_source(str(tmp_path / "report.txt"), "report")
    check_own_texts(own_samples([{"text": "Something else altogether."}]), report)
    with pytest.raises(DataError, match="share 1 passages"):
        check_own_texts(own_samples([{"text": " ".join(words[20:90])}]), report)
