import logging
import math

import numpy as np
import pytest
import torch

from luq.calibration.mixing import build
from luq.config import CalibrationConfig, ProfileConfig
from luq.models.vlm import VLM
from luq.profiling.capture import choose_tokens, layer_outputs
from luq.profiling.entropy import cluster, entropy_bits, profile_entropy


def test_entropy_in_bits() -> None:
    assert entropy_bits(np.zeros(50, int)) == 0
    assert entropy_bits(np.arange(64)) == 6
    assert entropy_bits(np.array([0, 0, 1, 2])) == 1.5


def blobs(centres: int, n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    where = torch.randn(centres, 8, generator=generator) * 30
    return where[torch.arange(n) % centres] + torch.randn(n, 8, generator=generator) * 0.01


def test_well_separated_blobs_give_their_number() -> None:
    assert entropy_bits(cluster(blobs(8, 800).numpy(), 8, 0)) == pytest.approx(3, abs=0.35)
    assert (
        len(set(cluster(np.ones((20, 3)), 5, 0))) == 1
    )  # never more clusters than different vectors


def test_spread_out_outputs_have_more_entropy_and_modalities_the_same_count() -> None:
    outputs = [
        {"image": blobs(2, 900), "text": blobs(30, 600)},
        {"image": blobs(30, 900), "text": blobs(2, 600)},
    ]
    table = profile_entropy(outputs, ProfileConfig(clusters=40, tokens=1024, seeds=3))
    value = {(e.layer, e.modality): e for e in table}
    assert value[0, "image"].mean < value[0, "text"].mean
    assert value[1, "image"].mean > value[1, "text"].mean
    assert {e.tokens for e in table} == {480}
    assert all(0 <= e.mean <= math.log2(40) for e in table)
    assert table == profile_entropy(outputs, ProfileConfig(clusters=40, tokens=1024, seeds=3))


def test_few_tokens_give_fewer_clusters_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        table = profile_entropy([{"all": blobs(30, 200)}], ProfileConfig(clusters=100, seeds=1))
    assert table[0].clusters == 32
    assert "too few for K=100" in caplog.text


def test_reservoirs_are_bounded_and_hold_the_chosen_rows(vlm: VLM) -> None:
    calibration = build(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=2048))
    outputs = layer_outputs(vlm, calibration, tokens=100, seed=0)
    assert len(outputs) == len(vlm.layers)
    assert {name: tuple(rows.shape) for name, rows in outputs[0].items()} == dict.fromkeys(
        ("all", "image", "text"), (100, 128)
    )
    everything = layer_outputs(vlm, calibration, tokens=10**6, seed=0)
    mask = calibration.image_mask()
    assert len(everything[0]["image"]) == int(mask.sum())
    chosen = choose_tokens(mask, 100, 0)
    for layer in (0, len(vlm.layers) - 1):
        assert torch.equal(outputs[layer]["text"], everything[layer]["all"][chosen["text"]])
        assert torch.equal(everything[layer]["image"], everything[layer]["all"][mask])


def test_text_only_calibration_has_no_image_entropy() -> None:
    assert "image" not in choose_tokens(torch.zeros(50, dtype=torch.bool), 10, 0)
