"""Scores of layers against the hidden states and scipy."""

import pytest
import torch
from scipy import stats

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import CalibrationConfig
from luq.models.vlm import VLM
from luq.profiling import scores
from luq.profiling.scores import forward_scores, weight_scores
from tests.conftest import pocket_samples


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


@torch.no_grad()
def test_variance_and_lim_against_the_hidden_states(vlm: VLM, calibration: CalibrationSet) -> None:
    measured = forward_scores(vlm, calibration)
    assert set(measured) == {"all", "image", "text"}
    assert all(set(by_score) == set(scores.FORWARD) for by_score in measured.values())
    states: list[list[torch.Tensor]] = []
    for batch in calibration.batches():
        inputs = inputs_of(batch, vlm.device)
        output = vlm.model(**inputs, use_cache=False, output_hidden_states=True)
        states.append([hidden.flatten(0, 1) for hidden in output.hidden_states])
    mask = calibration.image_mask()
    for layer in range(len(vlm.layers) - 1):  # the last hidden state is normed
        before = torch.cat([hidden[layer] for hidden in states]).double()
        after = torch.cat([hidden[layer + 1] for hidden in states]).double()
        for modality, rows in (("all", torch.ones_like(mask)), ("image", mask), ("text", ~mask)):
            variance = float(after[rows].var(0, correction=0).mean())
            assert measured[modality]["variance"][layer] == pytest.approx(variance, rel=1e-6)
            cosine = torch.nn.functional.cosine_similarity(before[rows], after[rows]).mean()
            assert measured[modality]["lim"][layer] == pytest.approx(1 - float(cosine), rel=1e-6)


def test_a_modality_without_tokens_is_left_out(vlm: VLM) -> None:
    text = pocket_samples(vlm, CalibrationConfig(name="text", alpha=0.0, tokens=512))
    measured = forward_scores(vlm, text)
    assert set(measured) == {"all", "text"}
    assert measured["all"] == measured["text"], "they are of the same tokens"


def test_hooks_are_gone_afterwards(vlm: VLM, calibration: CalibrationSet) -> None:
    before = [list(layer._forward_hooks) for layer in vlm.layers]  # transformers leaves some
    forward_scores(vlm, calibration)
    assert [list(layer._forward_hooks) for layer in vlm.layers] == before


def test_zd_and_kurtosis_against_scipy(vlm: VLM) -> None:
    measured = weight_scores(vlm)
    assert set(measured) == set(scores.WEIGHTS)
    for layer in (0, len(vlm.layers) - 1):
        weights = [weight.double().flatten().numpy() for weight in vlm.original(layer).values()]
        total = sum(weight.size for weight in weights)
        outliers = sum(float((stats.zscore(weight) > 1).sum()) for weight in weights)
        moments = sum(stats.kurtosis(weight, fisher=False) * weight.size for weight in weights)
        assert measured["zd"][layer] == pytest.approx(outliers / total)
        assert measured["kurtosis"][layer] == pytest.approx(moments / total, rel=1e-6)


def test_scores_of_weights_do_not_depend_on_how_many_are_read_at_a_time(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = weight_scores(vlm)
    monkeypatch.setattr(scores, "CHUNK", 1000)
    in_pieces = weight_scores(vlm)
    assert in_pieces["zd"] == at_once["zd"]
    assert in_pieces["kurtosis"] == pytest.approx(at_once["kurtosis"], rel=1e-9)
