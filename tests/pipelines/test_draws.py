"""An order by several draws of the calibration set: what is averaged, what is shared, refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luq.calibration.artefacts import Calibration
from luq.errors import ConfigError
from luq.planning import LayerScores, allocate
from luq.profiling.entropies import LayerEntropy, over_draws
from luq.store.artefact import Artefact
from luq.store.store import NotMade, Store
from pipelines.cost import Work
from pipelines.pieces import first_needed, needed
from pipelines.record import from_json, to_json
from tests.analysis.synthetic import mixed
from tests.pipelines.test_graph import LAYERS, graph

DRAWS = "order.draws=3"


def entry(layer: int, mean: float, modality: str = "all", tokens: int = 99) -> LayerEntropy:
    return LayerEntropy(layer, modality, mean, 0.01, tokens, 20)


class Values:
    """Values of artefacts by key, in place of a store that would have to make them."""

    def __init__(self) -> None:
        self.of_artefacts: dict[str, Any] = {}

    def __call__(self, artefact: Artefact[Any]) -> Any:
        if artefact.key not in self.of_artefacts:
            raise NotMade(artefact)
        return self.of_artefacts[artefact.key]


def test_one_draw_is_what_a_run_was_before() -> None:
    assert graph("order.draws=1").key == graph().key
    assert graph("order.draws=1").draws == (graph().calibration,)
    one = [entry(0, 5.0)]
    assert over_draws([one]) is one


def test_draws_are_the_sets_of_the_next_seeds() -> None:
    run = graph("seed=4", DRAWS)
    alone = [graph(f"seed={seed}") for seed in (4, 5, 6)]
    assert run.draws == tuple(other.calibration for other in alone)
    assert run.profiles == tuple(other.profile for other in alone)
    assert run.forward_scores == tuple(other.forward_scores[0] for other in alone)
    assert run.key not in {other.key for other in alone}
    assert run.key != graph("seed=4", "order.draws=2").key


def test_layers_are_quantized_with_the_first_draw() -> None:
    assert graph(DRAWS).uniform("billm") == graph().uniform("billm")


def test_scores_are_means_over_the_draws() -> None:
    run = graph(DRAWS)
    values = Values()
    for number, profile in enumerate(run.profiles):
        entropies = [entry(layer, layer + 0.5 * number) for layer in range(LAYERS)]
        values.of_artefacts[profile.key] = entropies
    variances = ([3.0, 1.0, 2.0], [0.0, 8.0, 2.0], [0.0, 0.0, 5.0])
    for scores, variance in zip(run.forward_scores, variances, strict=True):
        values.of_artefacts[scores.key] = {"all": {"variance": variance, "lim": variance[::-1]}}
    scores = LayerScores(run, values)
    assert scores.score("entropy") == [layer + 0.5 for layer in range(LAYERS)]
    assert scores.score("variance") == [1.0, 3.0, 3.0]
    assert scores.score("lim") == [3.0, 3.0, 1.0]
    assert scores.entropies("all") == scores.score("entropy")
    assert [item.spread for item in scores.profile] == pytest.approx([(0.5 / 3) ** 0.5] * LAYERS)
    of_draws = scores.recorded_draws()["entropy"]
    assert [of_draw[0] for of_draw in of_draws] == [0.0, 0.5, 1.0]
    with pytest.raises(ConfigError, match="has no image tokens"):
        scores.entropies("image")


def test_a_profile_over_draws_says_the_least_that_each_rests_on() -> None:
    first = [entry(0, 1.0), entry(0, 2.0, "image")]
    second = [entry(0, 4.0, tokens=50)]
    (both,) = over_draws([first, second])
    assert (both.mean, both.spread, both.tokens) == (2.5, 1.5, 50)
    assert both.modality == "all", "image tokens are not in every set"


@pytest.mark.parametrize(
    ("order", "stage"), [("entropy", "profile"), ("variance", "scores"), ("lim", "scores")]
)
def test_every_draw_is_made_before_a_plan_is_known(order: str, stage: str, tmp_path: Path) -> None:
    run = graph(DRAWS, f"order={order}")
    store = Store(tmp_path)
    with pytest.raises(NotMade):
        allocate(run, store.peek)
    wanted = needed(run, store)
    assert not wanted.is_all
    made = {item.key for item in wanted.artefacts if item.stage == stage}
    expected = run.profiles if order == "entropy" else run.forward_scores
    assert made == {item.key for item in expected}


def test_a_cost_counts_every_draw(tmp_path: Path) -> None:
    work = Work()
    work.add_run(graph(DRAWS), Store(tmp_path))
    assert len(work.pieces["profiles"]) == len(work.pieces["calibration sets"]) == 3


def test_every_draw_is_looked_through_for_questions_that_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = graph(DRAWS)
    assert first_needed(run) == list(run.draws)
    monkeypatch.setattr(Calibration, "may_share_questions", True)
    shared = run.shared_questions()
    assert {item.calibration for item in shared} == set(run.draws)
    assert len(shared) == 3 * len(run.questions.tables)


@pytest.mark.parametrize("plan", [["allocation=uniform"], ["allocation.k=0"]])
def test_a_plan_of_one_tier_draws_once(plan: list[str]) -> None:
    run = graph(DRAWS, *plan)
    assert run.calibrations == (run.calibration,)
    assert run.key == graph(*plan).key


@pytest.mark.parametrize("order", ["output_error", "kl", "delta_loss", "fisher"])
def test_orders_by_quantized_layers_have_one_draw(order: str) -> None:
    match = rf"order\.draws=3 is not possible with order={order}, .* entropy, .* lim"
    with pytest.raises(ConfigError, match=match):
        graph(DRAWS, f"order={order}")


def test_samples_of_ones_own_are_not_drawn(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "A passage of some words."}\n' * 40, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"order\.draws=3 is not possible: samples of your own"):
        graph(DRAWS, f"calibration.source={file}")


def test_a_record_keeps_every_draw() -> None:
    run = replace(mixed(2, 60.0, **{"order.draws": 2}), draw_scores={"entropy": [[1.0], [2.0]]})
    assert from_json(to_json(run)) == run
    old = to_json(run)
    del old["draw_scores"], old["config"]["order"]["draws"]
    read = from_json(old)
    assert (read.draw_scores, read.config.order.draws) == ({}, 1)
