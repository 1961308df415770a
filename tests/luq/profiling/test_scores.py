import pytest
import torch
from scipy import stats

from luq.calibration.mixing import build
from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import CalibrationConfig
from luq.models.vlm import VLM
from luq.profiling.scores import forward_scores, weight_scores


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return build(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


@torch.no_grad()
def test_variance_and_lim_against_the_hidden_states(vlm: VLM, calibration: CalibrationSet) -> None:
    found = forward_scores(vlm, calibration)
    assert set(found) == {"all", "image", "text"}
    states: list[list[torch.Tensor]] = []
    for batch in calibration.batches():
        told = vlm.model(
            **inputs_of(batch, vlm.device), use_cache=False, output_hidden_states=True
        ).hidden_states
        states.append([hidden.flatten(0, 1) for hidden in told])
    mask = calibration.image_mask()
    for layer in range(len(vlm.layers) - 1):  # the last hidden state is normed
        before, after = (torch.cat([s[at] for s in states]).double() for at in (layer, layer + 1))
        for modality, rows in (("all", torch.ones_like(mask)), ("image", mask), ("text", ~mask)):
            assert found[modality]["variance"][layer] == pytest.approx(
                float(after[rows].var(0, correction=0).mean()), rel=1e-6
            )
            cosine = torch.nn.functional.cosine_similarity(before[rows], after[rows]).mean()
            assert found[modality]["lim"][layer] == pytest.approx(1 - float(cosine), rel=1e-6)


def test_a_modality_without_tokens_is_left_out(vlm: VLM) -> None:
    text = build(vlm, CalibrationConfig(name="text", alpha=0.0, tokens=512))
    assert set(forward_scores(vlm, text)) == {"all", "text"}


def test_zd_and_kurtosis_against_scipy(vlm: VLM) -> None:
    found = weight_scores(vlm)
    for layer in (0, len(vlm.layers) - 1):
        weights = [w.double().flatten().numpy() for w in vlm.original(layer).values()]
        sizes = [w.size for w in weights]
        zd = sum(float((stats.zscore(w) > 1).sum()) for w in weights) / sum(sizes)
        kurtosis = sum(
            stats.kurtosis(w, fisher=False) * n for w, n in zip(weights, sizes, strict=True)
        ) / sum(sizes)
        assert found["zd"][layer] == pytest.approx(zd)
        assert found["kurtosis"][layer] == pytest.approx(kurtosis, rel=1e-6)
