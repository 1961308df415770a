"""A model's stand-in: its own classes and widths, one layer, and no weight of the checkpoint."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from luq.calibration.mixing import question_sample
from luq.calibration.samples import inputs_of
from luq.config import ModelConfig
from luq.models import stopwatch
from luq.models.checkpoint import Checkpoint, checkpoint
from luq.models.replica import Replica
from luq.models.vlm import load
from tests.luq.models import tiny_families


def source(path: str) -> Checkpoint:
    return checkpoint(ModelConfig("model", path, device="cpu"), download=False)


@pytest.mark.parametrize("name", ["pocket_llava", "pocket_qwen"])
def test_it_is_the_model_with_one_layer(name: str) -> None:
    model = load(source(f"pocket:{name}"))
    replica = Replica(source(f"pocket:{name}"))
    stand_in = replica.vlm
    assert len(stand_in.layers) == 1 < len(model.layers)
    shapes = {name: weight.shape for name, weight in stand_in.original(0).items()}
    assert shapes == {name: weight.shape for name, weight in model.original(0).items()}
    assert not any(
        torch.equal(weight, model.original(0)[name])
        for name, weight in stand_in.original(0).items()
    )
    sample = question_sample(stand_in, "x", "What is it?", [Image.new("RGB", (64, 64))])
    expected = question_sample(model, "x", "What is it?", [Image.new("RGB", (64, 64))])
    assert torch.equal(sample.input_ids, expected.input_ids)
    with torch.no_grad():
        inputs = inputs_of([sample], stand_in.device)
        logits = stand_in.model(**inputs, logits_to_keep=1).logits
    assert logits.shape == (1, 1, model.model.get_output_embeddings().out_features)
    assert bool(logits.isfinite().all())


def test_a_block_of_a_tower_computes_and_the_others_pass_on() -> None:
    replica = Replica(source("pocket:pocket_llava"))
    (stack,) = replica.stacks
    assert replica.blocks == len(stack) == 4
    assert sum(parameter.numel() for parameter in stack[0].parameters()) > 0
    for block in list(stack)[1:]:
        assert not list(block.parameters())
    width = next(stack[0].parameters()).shape[-1]
    hidden = torch.randn(1, 5, width)
    with torch.no_grad():
        assert not torch.equal(stack[0](hidden, None), hidden)
        assert torch.equal(stack[1](hidden, None), hidden)


def test_weights_are_not_read(tmp_path: Path) -> None:
    """Headers are, for keys; a file without tensors behind its header does for it."""
    folder = tiny_families.write(tmp_path / "llama", "llama")
    value = source(str(folder))
    file = folder / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(b"\xff" * (size - size // 2))  # NaN, which loading the model refuses
    weights = Replica(value).vlm.original(0).values()
    assert all(bool(weight.isfinite().all()) for weight in weights)


def test_a_fit_gives_the_coefficients() -> None:
    terms = [(1.0, 10.0), (1.0, 100.0), (1.0, 1000.0)]
    seconds = [0.5 + 0.002 * units for _, units in terms]
    assert stopwatch.fitted(terms, seconds) == pytest.approx((0.5, 0.002))
    falling = stopwatch.fitted(terms, [3.0, 2.0, 1.0])
    assert min(falling) >= 0, "no work takes less than nothing"
