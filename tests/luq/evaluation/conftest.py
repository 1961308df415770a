"""Pocket questions from a folder, and the pocket model as lm-eval sees it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from luq.config import EvaluationConfig
from luq.evaluation.ask import make_lm
from luq.evaluation.lm import LoadedVLM
from luq.models.vlm import VLM
from luq.pocket import benchmarks
from luq.questions.sources import evaluation_table
from luq.questions.tables import Questions
from luq.store.artefact import Tools
from luq.store.store import Store
from tests.conftest import BENCHMARKS

OpenQuestions = Callable[[str], Questions]


@pytest.fixture(scope="package")
def open_questions(tmp_path_factory: pytest.TempPathFactory) -> OpenQuestions:
    """The pocket questions of a benchmark, as a folder of parquet files holds them."""
    folder: Path = tmp_path_factory.mktemp("questions")
    benchmarks.write(folder, "selection")
    config = EvaluationConfig("pocket", BENCHMARKS, data=str(folder), split="all")
    tools = Tools(Store(folder / "outputs"))

    def open_(name: str) -> Questions:
        return evaluation_table(name, config, folder / "cache").open(tools)

    return open_


@pytest.fixture(scope="package")
def lm(vlm: VLM) -> LoadedVLM:
    """The pocket model, asked in batches of 32."""
    return make_lm(vlm, 32)
