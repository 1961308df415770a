"""Shared fixtures.

The environment is set before torch is imported: see CONTRIBUTING, "Slow machines". The import hook
is installed before luq is imported: it checks annotated shapes and types at every call.
"""
# ruff: noqa: E402  # both of these come before the imports

import os

from tests import annotations

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# With several test processes each has its share of the cores; last bits depend on the number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Packages whose jaxtyping annotations are checked when they are called.
CHECKED_PACKAGES = ("luq.formats", "luq.quantization", "luq.profiling")
annotations.install(CHECKED_PACKAGES)

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from luq.calibration.mixing import build, generated_questions
from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig, ModelConfig
from luq.models.vlm import VLM, load_vlm
from luq.pocket import artefacts, benchmarks
from luq.pocket.plugin import PocketPlugin
from luq.questions.text import text_source

BENCHMARKS = ["mme", "mmbench", "textvqa", "vqav2", "gqa", "pope", "chartqa", "docvqa", "mathvista"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU, the network or llama.cpp are skipped with the reason without it."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("llama_cpp") and find_spec("llama_cpp") is None:
            item.add_marker(pytest.mark.skip(reason="needs llama-cpp-python"))
        if item.get_closest_marker("network") and not os.environ.get("LUQ_NETWORK_TESTS"):
            item.add_marker(pytest.mark.skip(reason="needs the hub: set LUQ_NETWORK_TESTS=1"))


def pytest_runtest_setup() -> None:
    """Each test has its own calls to check."""
    annotations.calls.clear()


@pytest.fixture(scope="session")
def vlm() -> VLM:
    """The pocket model, loaded once."""
    return load_vlm(ModelConfig(name="pocket_llava", path="pocket:pocket_llava", device="cpu"))


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One outputs folder for the whole session, so that end-to-end tests share artefacts."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="session", autouse=True)
def questions_drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every new store has the pocket benchmarks made. Drawing them takes seconds: these tests
    draw each split once and copy its files.
    """
    splits = tmp_path_factory.mktemp("pocket_questions")

    def copied(folder: Path, split: str) -> None:
        if not (splits / split).exists():
            benchmarks.write(splits / split, split)
        shutil.copytree(splits / split, folder, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artefacts, "write", copied)
        yield


def pocket_samples(vlm: VLM, config: CalibrationConfig) -> CalibrationSet:
    """Calibration samples of the pocket world."""
    questions = generated_questions(
        PocketPlugin().calibration_questions(config.benchmarks, config.seed)
    )
    return build(vlm, config, questions, text_source(config.text, "calibration"))


def correlated(rows: int, columns: int, seed: int = 0, rank: int | None = None) -> torch.Tensor:
    """A Hessian of correlated inputs [columns, columns]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or columns, columns, generator=generator) * torch.logspace(
        0, -1.5, columns
    )
    inputs = torch.randn(rows, rank or columns, generator=generator) @ mix
    return 2 * inputs.T @ inputs / rows


def loss(weight: torch.Tensor, quantized: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr((W - Q) H (W - Q)^T): what GPTQ minimizes."""
    error = (weight - quantized).double()
    return float(((error @ hessian.double()) * error).sum())
