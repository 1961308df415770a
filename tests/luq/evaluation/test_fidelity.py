import math
from pathlib import Path

import pytest
import torch

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.evaluation import ask as harness
from luq.evaluation import fidelity, perplexity
from luq.models.vlm import VLM
from luq.pocket import benchmarks
from luq.questions import sources as data
from tests.conftest import BENCHMARKS

CONFIG = EvaluationConfig("test", BENCHMARKS, text_tokens=1024, text_length=64)


@pytest.fixture(scope="module")
def lm(vlm: VLM):
    return harness.make_lm(vlm, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pocket")
    benchmarks.write(made, "selection")
    return made


def logs(tokens: int = 3, words: int = 1000, seed: int = 0) -> torch.Tensor:
    return (
        torch.randn(tokens, words, generator=torch.Generator().manual_seed(seed))
        .mul(4)
        .log_softmax(-1)
    )


def test_divergence_is_the_kl_of_the_kept_tokens_and_the_rest() -> None:
    p, q = logs(seed=1), logs(seed=2)
    top = p.topk(fidelity.TOP)
    found = fidelity.divergence(top.indices, top.values, q)
    whole = (p.double().exp() * (p - q).double()).sum(-1)
    assert torch.all(found <= whole + 1e-9), "counting tokens as one can only lose information"
    assert torch.allclose(found, whole, rtol=0.05)
    assert torch.allclose(
        fidelity.divergence(top.indices, top.values, p),
        torch.zeros(3, dtype=torch.float64),
        atol=1e-6,
    )


def test_the_reference_survives_its_file(tmp_path: Path) -> None:
    answers = [(5, torch.tensor([1, 2]), logs(2, seed=3)), (9, torch.tensor([7]), logs(1, seed=4))]
    fidelity.write_reference(tmp_path / "r.safetensors", iter(answers))
    kept = fidelity.read_reference(tmp_path / "r.safetensors")
    assert list(kept) == [5, 9]
    rows = fidelity.measure(iter(answers), kept)
    assert [row["tokens"] for row in rows] == [2, 1]
    assert all(row["agreement"] == 1 and row["kl"] < 1e-5 for row in rows)
    assert rows[1]["loglik"] == pytest.approx(float(answers[1][2][0, 7]))
    assert fidelity.summarise(rows)["n"] == 2
    assert fidelity.summarise([]) == {"n": 0, "kl": None, "agreement": None, "loglik": None}


@pytest.mark.parametrize("name", ["textvqa", "mmbench", "chartqa"])
def test_one_forward_pass_gives_what_the_model_would_say(
    lm, folder: Path, tmp_path: Path, name: str
) -> None:
    """Where the reference is the model's own answer, every token of it is the first choice;
    batches do not matter.
    """
    questions = data.load(name, CONFIG, tmp_path, folder)
    ids = list(range(12))
    found = {
        i: (tokens, values)
        for i, tokens, values in fidelity.log_probabilities(
            lm, questions, ids, True, lambda n: None
        )
    }
    tokenizer = lm.tokenizer
    one = harness.make_lm(lm.vlm, 1)
    from luq.evaluation.predictions import Predictions
    from luq.questions.prompts import TARGETS

    rows = harness.ask(lm, questions, ids, Predictions(tmp_path / "kept.jsonl"), strict=True)
    for row in rows:
        tokens, values = found[row["id"]]
        assert (
            tokenizer.decode(tokens).strip()
            == TARGETS[name](questions.docs[row["id"]]) + tokenizer.eos_token
        )
        said_so = bool((values.argmax(-1) == tokens).all())
        assert said_so == (row["text"].strip() == TARGETS[name](questions.docs[row["id"]]))
    alone = next(iter(fidelity.log_probabilities(one, questions, [3], True, lambda n: None)))
    assert torch.allclose(alone[2], found[3][1], atol=1e-3)


def test_perplexity_is_that_of_a_plain_forward_pass(vlm: VLM) -> None:
    losses = perplexity.text_losses(vlm, CONFIG)
    assert len(losses) == 16
    sequence = perplexity.text_tokens(vlm, CONFIG)[3:4]
    with torch.no_grad():
        plain = vlm.model(input_ids=sequence, labels=sequence).loss
    assert losses[3] == pytest.approx(float(plain), rel=1e-4)
    found = perplexity.perplexity(losses, 64)
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] == pytest.approx(math.exp(sum(losses) / 16))
    assert found["tokens"] == 16 * 63


def test_calibration_and_held_out_text_share_no_passage() -> None:
    from luq.pocket import text

    train, calibration, report = (set(text.split(s)) for s in ("train", "calibration", "report"))
    assert report
    assert calibration
    assert not report & calibration
    assert not (report | calibration) & train


def test_text_files_and_their_absence(vlm: VLM, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The quick brown fox. " * 100)
    own = EvaluationConfig("t", [], text=str(tmp_path / "t.txt"), text_tokens=256, text_length=64)
    assert perplexity.text_tokens(vlm, own).shape == (4, 64)
    with pytest.raises(DataError, match="neither 'pocket', 'wikitext' nor a text file"):
        perplexity.text_tokens(vlm, EvaluationConfig("t", [], text="/nowhere", text_tokens=256))
    with pytest.raises(DataError, match="tokens: fewer than"):
        perplexity.text_tokens(
            vlm, EvaluationConfig("t", [], text=str(tmp_path / "t.txt"), text_tokens=10)
        )
