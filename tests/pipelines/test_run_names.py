"""Runs beside each other are named by what differs between them."""

import pytest

from pipelines.run_names import labels, plan_labels

SHARED = "calibration.tokens=2048 profile.tokens=512"


def test_what_all_runs_share_is_in_no_label() -> None:
    names = [f"{SHARED} allocation.k={k} order={order}" for k in (2, 4) for order in ("lim", "kl")]
    assert labels(names) == [
        "allocation.k=2 order=lim", "allocation.k=2 order=kl",
        "allocation.k=4 order=lim", "allocation.k=4 order=kl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["a=1 b=2"], ["a=1 b=2"]),
        (["a=1 b=2", "a=1 b=2"], ["a=1 b=2", "a=1 b=2"]),
        (["luq_k2", "luq_k4"], ["luq_k2", "luq_k4"]),
        (["a=1", "a=1 k=2"], ["default", "k=2"]),
        (["a='x y' k=1", "a='x z' k=1"], ["a='x y'", "a='x z'"]),
    ],
)
def test_labels(names: list[str], expected: list[str]) -> None:
    assert labels(names) == expected


def test_different_names_have_different_labels() -> None:
    names = [f"{SHARED} k={k}" for k in range(3)] + ["luq_k4", SHARED, "k=1"]
    assert len(set(labels(names))) == len(names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["order=lim allocation.k=4", "order=kl allocation.k=4"], ["order=lim", "order=kl"]),
        (["order=lim allocation.k=4", "luq_k4"], ["order=lim k=4", "luq_k4"]),
        (["seed=1", "seed=2"], ["seed=1", "seed=2"]),
        (["order.seed=2 allocation.k=4", "order.seed=3 allocation.k=2"], ["k=4", "k=2"]),
        (["a.tokens=1 b.tokens=2", "a.tokens=3 b.tokens=4"],
         ["a.tokens=1 b.tokens=2", "a.tokens=3 b.tokens=4"]),
        (["a.tokens=1 b.tokens=2", "a.tokens=3 b.tokens=2"], ["tokens=1", "tokens=3"]),
    ],
)  # fmt: skip
def test_plans_stand_for_all_their_seeds(names: list[str], expected: list[str]) -> None:
    assert plan_labels(names) == expected
