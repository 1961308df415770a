"""How far probabilities moved from the 16-bit model's, and perplexity."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from luq.errors import DataError
from luq.evaluation import fidelity, measures
from luq.evaluation.ask import ask, make_lm
from luq.evaluation.fidelity import AnswerLogs, TopLogs
from luq.evaluation.lm import LoadedVLM
from luq.evaluation.perplexity import text_losses, text_tokens
from luq.evaluation.predictions import FidelityRow, Predictions
from luq.models.vlm import VLM
from luq.questions.prompts import TARGETS
from luq.questions.text import text_source
from tests.luq.evaluation.conftest import OpenQuestions

TOKENS = 1024
LENGTH = 64


def random_logs(tokens: int = 3, words: int = 1000, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, words, generator=generator).mul(4).log_softmax(-1)


def top_logs(logs: Tensor, count: int = fidelity.TOP) -> TopLogs:
    top = logs.topk(count)
    return TopLogs(top.indices, top.values)


def silent(steps: int) -> None:
    """Progress that nobody sees."""


def test_divergence_is_the_kl_of_the_stored_tokens_and_the_others_as_one() -> None:
    p = random_logs(seed=1)
    q = random_logs(seed=2)
    stored = fidelity.divergence(top_logs(p), q)
    complete = (p.double().exp() * (p - q).double()).sum(-1)
    assert torch.all(stored <= complete + 1e-9), "counting tokens as one only loses information"
    assert torch.allclose(stored, complete, rtol=0.05)


def test_divergence_of_three_tokens_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]]).log()
    q = torch.tensor([[0.2, 0.7, 0.1]]).log()
    expected = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert float(fidelity.divergence(top_logs(p, 1), q)) == pytest.approx(expected)


def test_a_distribution_does_not_diverge_from_itself() -> None:
    logs = random_logs()
    zeros = torch.zeros(3, dtype=torch.float64)
    assert torch.allclose(fidelity.divergence(top_logs(logs), logs), zeros, atol=1e-6)


def test_certainty_has_a_finite_divergence() -> None:
    certain = torch.tensor([[0.0, -1e4, -1e4]])
    value = fidelity.divergence(top_logs(certain, 1), torch.tensor([[-1e4, 0.0, -1e4]]))
    assert torch.isfinite(value).all()


def test_the_reference_survives_its_file(tmp_path: Path) -> None:
    answers = [
        AnswerLogs(9, torch.tensor([1, 2]), random_logs(2, seed=3)),
        AnswerLogs(5, torch.tensor([7]), random_logs(1, seed=4)),
    ]
    fidelity.write_reference(tmp_path / "reference.safetensors", iter(answers))
    reference = fidelity.read_reference(tmp_path / "reference.safetensors")
    assert list(reference) == [9, 5]
    for answer in answers:
        expected = top_logs(answer.logs)
        assert torch.equal(reference[answer.id].tokens, expected.tokens)
        assert torch.equal(reference[answer.id].logs, expected.logs)
    rows, _ = fidelity.measure(iter(answers), reference)
    assert [row["id"] for row in rows] == [5, 9], "by question"
    assert [row["tokens"] for row in rows] == [1, 2]
    assert all(row["agreement"] == 1 and row["kl"] < 1e-5 for row in rows)
    assert rows[0]["loglik"] == pytest.approx(float(answers[1].logs[0, 7]))


def test_the_reference_of_no_question_is_empty(tmp_path: Path) -> None:
    fidelity.write_reference(tmp_path / "reference.safetensors", iter([]))
    assert fidelity.read_reference(tmp_path / "reference.safetensors") == {}


def test_agreement_is_the_share_of_equal_first_choices() -> None:
    reference = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]).log()
    packed = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.7, 0.3], [0.8, 0.2]]).log()
    answer = AnswerLogs(0, torch.tensor([0, 1, 0, 1]), packed)
    ((row,), _) = fidelity.measure([answer], {0: top_logs(reference, 2)})
    assert row["agreement"] == 0.75
    assert row["loglik"] == pytest.approx(math.log(0.9 * 0.9 * 0.7 * 0.2), rel=1e-5)


def test_the_summary_has_means_with_intervals() -> None:
    rows: list[FidelityRow] = []
    for i in range(5):
        rows.append({"id": i, "tokens": 1, "kl": 0.1 * i, "agreement": 1.0, "loglik": -float(i)})
    summary = measures.summarise_fidelity(rows)
    assert summary.n == 5
    assert summary.kl is not None
    assert summary.kl[0] == pytest.approx(0.2)
    assert summary.kl[1] < 0.2 < summary.kl[2]
    assert summary.agreement == (1, 1, 1)
    assert summary.loglik is not None
    assert summary.loglik[0] == pytest.approx(-2)
    assert measures.summarise_fidelity([]) == (0, None, None, None)
    assert measures.mean_divergence([rows, [], rows[:2]]) == pytest.approx((0.2 + 0.05) / 2)


@pytest.mark.parametrize("name", ["textvqa", "mmbench", "chartqa"])
def test_one_forward_pass_gives_what_the_model_would_say(
    lm: LoadedVLM, open_questions: OpenQuestions, tmp_path: Path, name: str
) -> None:
    """Where the reference is the model's own answer, all its tokens are the first choice."""
    questions = open_questions(name)
    ids = list(range(12))
    by_id: dict[int, AnswerLogs] = {}
    for answer in fidelity.log_probabilities(lm, questions, ids, True, silent):
        by_id[answer.id] = answer
    rows = ask(lm, questions, ids, Predictions(tmp_path / "predictions.jsonl"), strict=True)
    for row in rows:
        target = TARGETS[name](questions.docs[row["id"]])
        answer = by_id[row["id"]]
        text = lm.tokenizer.decode(answer.tokens).strip()
        assert text == target + lm.tokenizer.eos_token
        is_first_choice = bool((answer.logs.argmax(-1) == answer.tokens).all())
        assert is_first_choice == (row["text"].strip() == target)


def test_probabilities_do_not_depend_on_the_batch(
    lm: LoadedVLM, open_questions: OpenQuestions
) -> None:
    questions = open_questions("chartqa")
    steps: list[int] = []
    together = fidelity.log_probabilities(lm, questions, list(range(12)), True, steps.append)
    by_id = {answer.id: answer for answer in together}
    assert steps == [12]
    one_by_one = make_lm(lm.vlm, 1)
    (alone,) = fidelity.log_probabilities(one_by_one, questions, [3], True, silent)
    assert torch.equal(alone.tokens, by_id[3].tokens)
    assert torch.allclose(alone.logs, by_id[3].logs, atol=1e-3)


def test_a_system_prompt_stands_before_the_question(
    lm: LoadedVLM, open_questions: OpenQuestions
) -> None:
    questions = open_questions("gqa")
    doc = questions.docs[0]
    plain = fidelity.forced(lm, questions, 0, doc, "")
    instructed = fidelity.forced(lm, questions, 0, doc, "Be short.")
    assert "Be short." not in plain.text
    assert instructed.text.index("Be short.") < instructed.text.index(doc["question"])
    assert instructed.answer == plain.answer


def test_perplexity_is_that_of_a_plain_forward_pass(vlm: VLM) -> None:
    sequences = text_tokens(
        vlm.processor.tokenizer, text_source("pocket", "report"), TOKENS, LENGTH
    )
    assert sequences.shape == (TOKENS // LENGTH, LENGTH)
    losses = text_losses(vlm, sequences)
    with torch.no_grad():
        plain = vlm.model(input_ids=sequences[3:4], labels=sequences[3:4]).loss
    assert losses[3] == pytest.approx(float(plain), rel=1e-4)
    interval = measures.perplexity(losses, LENGTH)
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(math.exp(sum(losses) / len(losses)))
    assert interval.tokens == len(losses) * (LENGTH - 1)


def test_a_text_in_bfloat16_is_nearly_as_likely(vlm: VLM) -> None:
    sequences = torch.randint(10, 90, (3, 32), generator=torch.Generator().manual_seed(0))
    exact = text_losses(vlm, sequences)
    rough = text_losses(vlm, sequences, "bfloat16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.01)


def test_likelihoods_in_bfloat16_are_near(
    vlm: VLM, lm: LoadedVLM, open_questions: OpenQuestions
) -> None:
    questions = open_questions("gqa")
    logs: list[Tensor] = []
    for asked in (lm, make_lm(vlm, 32, "bfloat16")):
        for answer in fidelity.log_probabilities(asked, questions, [0], True, silent):
            assert isinstance(answer, AnswerLogs)
            logs.append(answer.logs)
    exact, rough = logs
    assert rough.dtype == torch.float32
    divergence = float((exact.exp() * (exact - rough)).sum(-1).mean())
    assert 0 < divergence < 0.01


def test_an_endless_loss_has_a_perplexity() -> None:
    assert math.isfinite(measures.perplexity([1e4, 1e4], 8).value)


def test_calibration_and_held_out_text_share_no_passage() -> None:
    calibration = text_source("pocket", "calibration").passages()
    report = text_source("pocket", "report").passages()
    assert calibration
    assert report
    assert not set(calibration) & set(report)


def test_an_absent_text_says_what_is_possible() -> None:
    with pytest.raises(DataError, match="neither 'pocket', 'wikitext' nor a text file"):
        text_source("/nowhere", "report")
