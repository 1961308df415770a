"""The shipped Qwen2.5-VL of pocket size: it is one, it knows its world, and the whole pipeline
runs on it.
"""

from pathlib import Path

from luq.config import ModelConfig
from luq.models.vlm import load_vlm
from pipelines import runs_folder
from tests.pipelines.command import luq


def test_it_is_a_qwen2_5_vl_with_everything_peculiar_to_it() -> None:
    vlm = load_vlm(ModelConfig("pocket_qwen", "pocket:pocket_qwen", device="cpu"))
    assert type(vlm.model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    vision, text = vlm.model.config.vision_config, vlm.model.config.text_config
    assert len(vlm.layers) >= 8
    assert text.hidden_size % 128 == text.intermediate_size % 128 == 0
    assert vision.spatial_merge_size == 2
    assert 0 < len(vision.fullatt_block_indexes) < vision.depth, (
        "the other blocks look through windows"
    )
    assert len(text.rope_parameters["mrope_section"]) == 3
    assert vlm.bias(0, "self_attn.q_proj") is not None
    assert vlm.bias(0, "self_attn.q_proj").abs().max() > 0, "trained"


def test_a_run_on_it(tmp_path: Path) -> None:
    """Two bits on every layer, nine benchmarks: far above what a constant answer could reach."""
    given = [
        "model=pocket_qwen", "experiment=trellis2", "evaluation.samples=12", "evaluation.fidelity=0", "evaluation.text_tokens=0",
        "calibration.tokens=4096", "profile.tokens=256", "profile.clusters=10", "profile.seeds=1", "tracking=none",
        f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    done = luq("run", *given)
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(tmp_path)
    assert record.float_mean_score > 60
    assert record.mean_score > 45
    assert record.memory.stored_bits < 2.1
    assert record.scores["textvqa"].float_score > 80, "it reads"
