"""Configs of many runs are those that Hydra makes of each alone, and cost less."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from pipelines import composing
from pipelines.composing import Composer
from pipelines.conf_folder import CONF
from pipelines.schema import register

RUNS = [
    ["allocation.k=2", "seed=1"],
    ["seed=1", "allocation.k=4", "+quantizer.tiers.mine={method: rtn, bits: 4}"],
    ["experiment=gptq4", "allocation.k=4", "~quantizer.tiers.rtn4"],
    # what holds for a whole group, after and before a value in it
    ["evaluation.samples=3", "evaluation={samples: 5}"],
    ["evaluation={samples: 5}", "evaluation.samples=3"],
    ["order.name=random", "order=lim"],
]


@pytest.fixture(autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        yield


def test_each_config_is_the_one_that_hydra_makes_of_it_alone() -> None:
    alone = [compose("run", overrides) for overrides in RUNS]
    composer = Composer()
    assert [composer.compose(overrides) for overrides in RUNS] == alone
    # what one of them changed is not in the next
    assert [composer.compose(overrides) for overrides in RUNS] == alone


def test_runs_with_the_same_choices_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []

    def counted(name: str, overrides: list[str]):
        composed.append(overrides)
        return compose(name, overrides)

    monkeypatch.setattr(composing, "compose", counted)
    composer = Composer()
    for k in range(5):
        assert composer.compose(["order=lim", f"allocation.k={k}"]).allocation.k == k
    assert composed == [["order=lim"]]


@pytest.mark.parametrize("override", ["allocation.no_such=1", "allocation.k.x=1", "order=no_such"])
def test_what_hydra_refuses_is_refused(override: str) -> None:
    composer = Composer()
    with pytest.raises(HydraException) as plain:
        compose("run", [override])
    with pytest.raises(HydraException) as shared:
        composer.compose([override])
    assert str(shared.value) == str(plain.value)
