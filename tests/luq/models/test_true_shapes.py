"""The true tensor shapes of Qwen2.5-VL-3B, one decoder layer and two blocks of the tower, on the real checkpoint's path."""

import json
import os
import subprocess
import sys
from pathlib import Path

from luq import results
from tests.luq.models.true_shapes import write


def test_a_layer_of_the_real_shapes_takes_the_whole_path(tmp_path: Path) -> None:
    write(tmp_path / "model", "qwen2_5_vl_3b", layers=1, blocks=2)
    given = [
        f"model.path={tmp_path / 'model'}", "model=qwen2_5_vl_3b", "model.stream=true", "model.max_pixels=12544",
        "model.data=pocket", "evaluation.data=pocket", "evaluation.text=pocket", "calibration.source=pocket",
        "calibration.text=pocket", "calibration.tokens=256", "calibration.sample_tokens=64", "profile.tokens=64",
        "profile.clusters=8", "profile.seeds=1", "allocation=uniform", "quantizer.high=rtn4", "evaluation.benchmarks=[pope]",
        "evaluation.samples=1", "evaluation.fidelity=0", "evaluation.text_tokens=0", "checkpoint=true", "tracking=none",
        f"paths.outputs={tmp_path / 'out'}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "pipelines.cli", "run", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (record,) = results.iterate(tmp_path / "out")
    weights = 2048 * (2048 + 2 * 256 + 2048) + 3 * 2048 * 11008
    assert record["memory"]["weights"] == weights
    assert record["memory"]["stored_bits"] == 8 * record["memory"]["stored_bytes"] / weights
    assert 4.15 < record["memory"]["stored_bits"] < 4.17, "4 bits, an fp16 scale and a 4-bit zero per 128"
    told = json.loads((tmp_path / "out" / "checkpoints" / record["key"] / "luq.json").read_text())
    assert "head" not in told["ledger"], "the 3B model's head is its embeddings"
    assert told["ledger"]["embeddings"] == 151936 * 2048 * 2
    assert 0 <= told["file_bytes"] - record["memory"]["checkpoint_bytes"] < 1e5, "headers"
