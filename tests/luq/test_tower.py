"""Tiers for the blocks of the vision tower within a budget, on the pocket model."""

from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

import luq
from luq.allocation.blocks import TowerFile, block_options
from luq.allocation.reports import VisionPlan
from luq.api.packed import PackedModel
from luq.config import AllocationConfig, VisionBudget
from luq.config.named_tiers import named_tiers
from luq.export import checksums
from luq.formats.artefacts import LayerFolder
from luq.formats.layer_file import PackedLayer
from luq.models.loading import model_class
from luq.quantization.artefacts import BlockErrors, PackedPart
from luq.store.store import NotMade, Store
from luq.tower import planned_parts
from tests.luq.test_api import rows

LOW, HIGH = luq.RtnTier(bits=2), luq.RtnTier(bits=4)
NAMES = list(named_tiers([LOW, HIGH]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> luq.LoadedModel:
    store = tmp_path_factory.mktemp("store")
    return luq.load("pocket:pocket_llava", device="cpu", store=store)


def planned(model: luq.LoadedModel, bits: float) -> PackedModel:
    return luq.quantize(model, "rtn4", rows(4), vision=[LOW, HIGH], vision_bits=bits)


def tower_of(packed: PackedModel) -> PackedPart:
    (tower,) = packed.beside.parts
    return tower


def plan_of(packed: PackedModel) -> VisionPlan:
    assert packed.beside.vision is not None
    return packed.beside.vision


def folder_of(packed: PackedModel) -> LayerFolder:
    return packed.source.store.get(tower_of(packed))


def uniform(model: luq.LoadedModel, tier: luq.RtnTier) -> PackedModel:
    return luq.quantize(model, "rtn4", vision=tier)


def bits_of(packed: PackedModel) -> float:
    size = folder_of(packed).size()
    return 8 * size.bytes / size.weights


def test_at_the_ends_of_the_budget_all_blocks_are_alike(model: luq.LoadedModel) -> None:
    for tier, name in zip((LOW, HIGH), NAMES, strict=True):
        alone = uniform(model, tier)
        packed = planned(model, bits_of(alone))
        assert plan_of(packed).tiers == [name] * 4
        assert tower_of(packed) == tower_of(alone), "the very artefact of a tower in one tier"
        assert plan_of(packed).bits == bits_of(alone)
        assert str(plan_of(packed)) == f"{name} (blocks 0-3) at {bits_of(alone):.2f} bits"
    least = bits_of(uniform(model, LOW))
    with pytest.raises(luq.ConfigError, match=rf"linears take {least:.3f} stored bits"):
        planned(model, least - 0.001)
    with pytest.raises(luq.ConfigError, match=r"every block in rtn.bits=2. takes 2.141 stored"):
        planned(model, 2.1)


def test_between_them_the_blocks_of_the_least_error_keep_the_budget(
    model: luq.LoadedModel,
) -> None:
    low, high = uniform(model, LOW), uniform(model, HIGH)
    # half of the blocks in each, and 200 bytes: the header of such a file is no mean of the others
    packed = planned(model, (bits_of(low) + bits_of(high)) / 2 + 0.003)
    plan = plan_of(packed)
    folder = folder_of(packed)
    assert folder.bytes == plan.bytes <= plan.budget_bytes
    assert set(plan.tiers) == set(NAMES)
    errors = {}
    files = {}
    for name, alone in zip(NAMES, (low, high), strict=True):
        tower = tower_of(alone)
        errors[name] = model.store.get(BlockErrors(packed.graph.calibration, tower))
        file = folder_of(alone)
        files[name] = TowerFile(file.bytes, file.linear_bytes(), file.size().weights)
    sums = []
    for choice in product(*block_options(errors, files)):
        if sum(option.bytes for option in choice) <= plan.budget_bytes:
            sums.append((sum(option.error for option in choice), choice))
    least, best = min(sums)
    assert plan.error == pytest.approx(least)
    assert plan.tiers == [option.tier for option in best]
    assert_blocks_are(folder.read(), plan, {NAMES[0]: low, NAMES[1]: high})


def assert_blocks_are(tower: PackedLayer, plan: VisionPlan, alone: dict[str, PackedModel]) -> None:
    """Tiers without data: each block's codes are those of the tower that is all in its tier."""
    by_tier = {name: folder_of(packed).read() for name, packed in alone.items()}
    assert len(tower) == 6 * len(plan.tiers)
    for name, weight in tower.items():
        block = int(name.split("layers.")[1].partition(".")[0])
        expected = by_tier[plan.tiers[block]][name]
        assert weight.meta == expected.meta
        for buffer, tensor in expected.buffers.items():
            assert torch.equal(weight.buffers[buffer], tensor)


def test_a_plan_that_cannot_be_known_yet_says_what_is_missing(
    model: luq.LoadedModel, tmp_path: Path
) -> None:
    graph = planned(model, 3.5).graph
    empty = Store(tmp_path)
    with pytest.raises(NotMade):
        planned_parts(graph, empty.peek)
    made = model.store.peek(graph.uniform_towers[0])
    assert planned_parts(graph, model.store.peek).parts, "nothing is made"
    assert made.bytes > 0


@torch.no_grad()
def test_tiers_with_hessians_are_stored_and_loaded_bit_for_bit(
    model: luq.LoadedModel, tmp_path: Path
) -> None:
    tiers = [luq.GptqTier(bits=2, group_size=64), HIGH]
    packed = luq.quantize(
        model, "rtn4", rows(4), vision=tiers, vision_bits=3.2, projector="rtn4"
    )  # fmt: skip
    tower, projector = packed.beside.parts
    assert set(plan_of(packed).tiers) == set(named_tiers(tiers)), "both occur"
    assert set(tower.name.split("+")) == set(named_tiers(tiers))
    memory = packed.memory()
    assert sum(memory.ledger.values()) == memory.checkpoint_bytes
    of_tower = sum(size for name, size in memory.ledger.items() if name.startswith("vision "))
    assert of_tower == plan_of(packed).bytes
    folder = packed.save_pretrained(tmp_path / "exported")
    about = checksums.verify(folder)
    assert about.file_bytes == sum(about.ledger.values())
    inputs = model.processor(
        text=["<image> How many?"], images=[Image.new("RGB", (72, 72), "red")], return_tensors="pt"
    )
    auto = model_class(model.vlm.model.config)
    loaded = auto.from_pretrained(folder, dtype=torch.float32).eval()
    assert torch.equal(loaded(**inputs).logits, packed.model(**inputs).logits)
    assert projector.before == (), "its tier needs no data"


@pytest.mark.parametrize(
    ("tiers", "bits", "match"),
    [
        (["rtn4"], None, r"tiers=\['rtn4'\], bits=None.* must be both"),
        ([], 3.0, r"tiers=\[\], bits=3.0.* must be both"),
        (["rtn4"], -1.0, r"allocation.vision.bits=-1.0 .*\[0, 32\]"),
        (["rtn4", "rtn4"], 4.5, r"allocation.vision.tiers.* without repetitions"),
    ],
)
def test_half_a_budget_is_none(tiers: list[str], bits: float | None, match: str) -> None:
    with pytest.raises(luq.ConfigError, match=match):
        VisionBudget(tiers, bits)
    assert not AllocationConfig("uniform").vision.is_given


def test_samples_are_needed_whatever_the_tiers(model: luq.LoadedModel) -> None:
    with pytest.raises(luq.ConfigError, match=r"needs calibration samples"):
        luq.quantize(model, "rtn4", vision=[LOW, HIGH], vision_bits=3)


def test_a_plan_is_said_in_one_line() -> None:
    tiers = ["trellis4", "trellis4", "trellis2", "trellis4"]
    plan = VisionPlan(tiers, None, 300, 250, 800, 0.1)
    assert str(plan) == "trellis4 (blocks 0-1, 3) + trellis2 (block 2) at 2.50 bits"
    others = VisionPlan(["trellis2"], "trellis2", 300, 250, 1000, 0.1)
    assert str(others) == "trellis2 (block 0 and others) at 2.00 bits"
    apart = VisionPlan(["trellis2", "trellis2"], "rtn4", 300, 250, 1000, 0.1)
    assert str(apart) == "trellis2 (blocks 0-1) + rtn4 (other linears) at 2.00 bits"
