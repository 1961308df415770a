"""True tensor shapes, one decoder layer and two blocks of the tower, on the real checkpoints' path
and with their configs.
"""

import json
from pathlib import Path

import pytest

from pipelines import runs_folder
from tests.luq.models.true_shapes import write
from tests.pipelines.command import luq

# model -> hidden, width of keys and values, intermediate, vocabulary, whether it has a head of its
# own, overrides
CASES = {
    "qwen2_5_vl_3b": (2048, 256, 11008, 151936, False, ["model.max_pixels=12544"]),
    "llava_1_5_7b": (
        4096,
        4096,
        11008,
        32064,
        True,
        ["calibration.alpha=1", "model.benchmarks=[pope]"],
    ),
}


@pytest.mark.parametrize("model", CASES)
def test_a_layer_of_the_real_shapes_takes_the_whole_path(model: str, tmp_path: Path) -> None:
    hidden, narrow, wide, vocabulary, head, more = CASES[model]
    write(tmp_path / "model", model, layers=1, blocks=2)
    given = [
        f"model.path={tmp_path / 'model'}", f"model={model}", "model.stream=true",
        "model.data=pocket", "evaluation.data=pocket", "evaluation.text=pocket", "calibration.source=pocket",
        "calibration.text=pocket", "calibration.tokens=256", "calibration.sample_tokens=64", "allocation=uniform", "quantizer.high=rtn4", "evaluation.benchmarks=[pope]",
        "evaluation.samples=1", "evaluation.fidelity=0", "evaluation.text_tokens=0", "checkpoint=true", "tracking=none",
        f"paths.outputs={tmp_path / 'out'}", *more,
    ]  # fmt: skip
    done = luq("run", *given)
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(tmp_path / "out")
    weights = 2 * hidden * (hidden + narrow) + 3 * hidden * wide
    assert record.memory.weights == weights
    assert record.memory.stored_bits == 8 * record.memory.stored_bytes / weights
    assert 4.15 < record.memory.stored_bits < 4.17, "4 bits, an fp16 scale and a 4-bit zero per 128"
    exported = tmp_path / "out" / "checkpoints" / record.key
    told = json.loads((exported / "luq.json").read_text())
    assert ("head" in told["ledger"]) == head, "the 3B model's head is its embeddings"
    assert told["ledger"]["embeddings"] == vocabulary * hidden * 2
    assert 0 <= told["file_bytes"] - record.memory.checkpoint_bytes < 1e5, "headers"
    if model.startswith("llava"):
        assert told["system_prompt"].startswith("A chat between")
        assert json.loads((exported / "processor_config.json").read_text())["image_processor"][
            "do_pad"
        ]
