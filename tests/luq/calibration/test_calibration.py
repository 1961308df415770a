import pytest
import torch

from luq.calibration.mixing import build
from luq.calibration.samples import inputs_of
from luq.config import CalibrationConfig
from luq.models.vlm import VLM


def config(alpha: float, **given: object) -> CalibrationConfig:
    return CalibrationConfig(**{"name": "mix", "alpha": alpha, "tokens": 4096, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_alpha_is_met_in_tokens(vlm: VLM, alpha: float) -> None:
    made = build(vlm, config(alpha))
    assert made.alpha == pytest.approx(alpha, abs=64 / 4096)
    assert made.tokens == pytest.approx(4096, abs=64)


def test_same_seed_same_set_and_another_seed_another(vlm: VLM) -> None:
    first, second, other = build(vlm, config(0.5)), build(vlm, config(0.5)), build(vlm, config(0.5, seed=1))
    assert first.hash == second.hash != other.hash
    assert [s.source for s in first.samples] == [s.source for s in second.samples]


def test_samples_know_their_image_tokens_and_their_source(vlm: VLM) -> None:
    made = build(vlm, config(0.5, benchmarks=["chartqa", "docvqa"]))
    pictures = [s for s in made.samples if s.multimodal]
    assert {s.source.split(":")[0] for s in pictures} == {"chartqa", "docvqa"}
    assert all(int(s.image_mask.sum()) == 36 for s in pictures)
    assert all(s.source.startswith("stdlib:") for s in made.samples if not s.multimodal)
    assert len({s.source for s in made.samples}) == len(made.samples)
    token = vlm.model.config.image_token_index
    assert all(torch.equal(s.image_mask, s.input_ids == token) for s in made.samples)


def test_batches_cover_all_tokens_without_padding(vlm: VLM) -> None:
    made = build(vlm, config(0.5))
    batches = list(made.batches())
    assert sum(s.tokens for batch in batches for s in batch) == made.tokens
    for batch in batches:
        inputs = inputs_of(batch, vlm.device)
        assert inputs["attention_mask"].all()
        assert inputs["input_ids"].shape == (len(batch), batch[0].tokens)
    assert made.image_mask().sum() == sum(int(s.image_mask.sum()) for s in made.samples)


def test_every_benchmark_can_feed_calibration(vlm: VLM) -> None:
    names = list(vlm.config.benchmarks) or ["mme", "mmbench", "textvqa", "vqav2", "gqa", "pope", "chartqa", "docvqa", "mathvista"]
    made = build(vlm, config(1.0, benchmarks=names))
    assert {s.source.split(":")[0] for s in made.samples} == set(names)
