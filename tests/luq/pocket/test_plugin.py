"""What the rest of LUQ gets from the pocket world."""

from itertools import islice
from pathlib import Path

import pytest

from luq.errors import ConfigError
from luq.pocket import benchmarks, plugin, text
from luq.questions.prompts import PROMPTS
from tests.conftest import BENCHMARKS


def test_shipped_models_are_found_by_name() -> None:
    for name in ("pocket_llava", "pocket_qwen", "pocket_wide"):
        assert (plugin.model_folder(name) / "model.safetensors").exists()


def test_a_misspelt_model_is_told_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean pocket_llava"):
        plugin.model_folder("pocket_lava")


def test_a_model_is_no_way_out_of_the_folder_of_weights() -> None:
    with pytest.raises(ConfigError, match="unknown pocket model"):
        plugin.model_folder("../data")


def test_calibration_questions_take_turns_and_are_functions_of_the_seed() -> None:
    names = tuple(BENCHMARKS)
    questions = list(islice(plugin.calibration_questions(names, seed=0), 2 * len(names)))
    same_questions = list(islice(plugin.calibration_questions(names, seed=0), 2 * len(names)))
    different_questions = list(islice(plugin.calibration_questions(names, seed=1), 2 * len(names)))
    expected_names = [f"{name}:{index}" for index in (0, 1) for name in names]
    assert [name for name, _, _ in questions] == expected_names
    images = [image.tobytes() for _, image, _ in questions]
    assert images == [image.tobytes() for _, image, _ in same_questions]
    assert not set(images) & {image.tobytes() for _, image, _ in different_questions}
    for name, _, row in questions:
        assert PROMPTS[name.partition(":")[0]](row)


def test_calibration_of_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean docvqa"):
        next(plugin.calibration_questions(("docvqua",), seed=0))


def test_calibration_report_and_training_share_no_passage() -> None:
    calibration = set(plugin.passages("calibration"))
    report = set(plugin.passages("report"))
    train = set(text.split("train"))
    assert calibration
    assert report
    assert not calibration & report
    assert not train & (calibration | report)


def test_training_text_is_not_offered() -> None:
    with pytest.raises(ConfigError, match="calibration, report"):
        plugin.passages("train")


def test_questions_are_written_one_file_a_benchmark(tmp_path: Path) -> None:
    sizes = benchmarks.write(tmp_path / "new", "selection")
    assert set(sizes) == set(BENCHMARKS)
    assert {file.stem for file in (tmp_path / "new").glob("*.parquet")} == set(BENCHMARKS)
