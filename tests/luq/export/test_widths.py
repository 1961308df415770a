"""Models whose widths no group divides: packed, run, exported and loaded again, in every
tier that takes any width.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForImageTextToText

from luq.allocation.allocations import Allocation
from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig, ModelConfig, QuantizerConfig
from luq.config.building import build
from luq.export.about import read_about
from luq.export.folder import PackedModel, export
from luq.models.vlm import VLM, load_vlm
from luq.models.weight_files import SINGLE
from luq.quantization.walk import assert_installed, install
from pipelines import runs_folder
from pipelines.chat import load
from pipelines.schema import CONF
from tests.conftest import pocket_samples
from tests.luq.models.tiny_qwen import write
from tests.luq.quantization.packing_by_hand import pack
from tests.pipelines.command import luq

SETTINGS = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
HIDDEN = 192  # 128 + 64
WIDE = 330  # 2 x 128 + 74: no whole bytes of a row, and no whole tiles
# Those that take any width.
TIERS = {
    name: tier
    for name, tier in build(QuantizerConfig, SETTINGS, "quantizer").tiers.items()
    if tier.refusal(WIDE) is None
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL with a decoder layer for each of these tiers."""
    folder = tmp_path_factory.mktemp("qwen")
    return write(folder, layers=len(TIERS), hidden=HIDDEN, wide=WIDE, heads=6, narrow=3)


@pytest.fixture(scope="module")
def qwen(source: Path) -> VLM:
    return load_vlm(ModelConfig("widths", str(source), device="cpu", max_pixels=12544))


@pytest.fixture(scope="module")
def samples(qwen: VLM) -> CalibrationSet:
    settings = CalibrationConfig("multimodal", alpha=0.5, tokens=512, benchmarks=["chartqa"])
    return pocket_samples(qwen, settings)


@pytest.fixture(scope="module")
def packed(
    qwen: VLM, samples: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    return pack(qwen, samples, tmp_path_factory.mktemp("layers"), list(TIERS.values()), exact=True)


@torch.no_grad()
def logits(model: torch.nn.Module, ids: list[int]) -> Tensor:
    tokens = torch.tensor([ids])
    answer: Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return answer


def test_every_tier_of_these_widths_is_exported_and_answers_the_same(
    qwen: VLM, source: Path, packed: list[Path], tmp_path: Path
) -> None:
    target = export(PackedModel(source, packed, Allocation(tuple(TIERS))), tmp_path / "out")
    about = read_about(target)
    assert sum(about.ledger.values()) == about.file_bytes == (target / SINGLE).stat().st_size
    model = AutoModelForImageTextToText.from_pretrained(target, dtype=torch.float32).eval()
    for ids in ([5], list(range(5, 25))):  # by the kernels of few tokens, and unpacked
        install(qwen, packed, cache=False)
        assert_installed(qwen, packed)
        expected = logits(qwen.model, ids)
        qwen.restore()
        assert torch.equal(logits(model, ids), expected)
        assert not torch.allclose(logits(qwen.model, ids), expected, atol=1e-3)


PLANS = {
    "uniform": ["allocation=uniform"],
    "count": ["allocation.k=1", "order=depth", "quantizer.low=billm"],
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_run_of_576_columns_ends_in_a_folder_that_answers(plan: str, tmp_path: Path) -> None:
    source = write(tmp_path / "model", layers=2, hidden=576, wide=320, heads=9, narrow=3)
    outputs = tmp_path / "outputs"
    done = luq(
        "run", "model=pocket_qwen", f"model.path={source}", "model.name=widths", "model.max_pixels=12544", *PLANS[plan],
        "calibration.tokens=512", "profile.tokens=256", "profile.clusters=10", "tracking=none",
        "evaluation.samples=2", "evaluation.fidelity=0", "evaluation.text_tokens=0",
        "evaluation.benchmarks=[gqa]", "checkpoint=true", f"paths.outputs={outputs}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(outputs)
    assert sum(record.memory.ledger.values()) == record.memory.checkpoint_bytes
    folder = outputs / "checkpoints" / record.key
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    linears = config["layers"][-1]["linears"]
    sizes = {name: linear.get("group_size") for name, linear in linears.items()}
    assert set(sizes.values()) == {128}, "576 and 320 columns are no groups of 128"
    model, _ = load(folder, "cpu")
    assert bool(torch.isfinite(logits(model, [5, 6, 7])).all())
