import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from luq.config import BillmTier, GptqTier, RunConfig
from luq.config.building import build, plain
from luq.config.quantizer import PARTS
from luq.errors import ConfigError
from pipelines.schema import CONF, check_choices, register, to_config
from tests.pipelines.command import luq

CHOICES = sorted(
    f"{file.parent.name}={file.stem}"
    for file in CONF.glob("*/*.yaml")
    if file.parent.name not in ("hydra", "sweep", "launcher")
)

NEEDED = {  # what has no default, since no value is right for every model
    "allocation=threshold": ["allocation.quantile=0.5"],
    "allocation=budget": ["allocation.bits=3.5"],
    "allocation=search": ["allocation.bytes=2GB"],
    "allocation=quality": ["allocation.drop=5"],
    "model=own": ["model.path=/models/mine"],
}


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("run", list(overrides))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_config_composes(choice: str) -> None:
    assert isinstance(to_config(composed(choice, *NEEDED.get(choice, ()))), RunConfig)


def test_the_defaults_are_the_papers() -> None:
    config = to_config(composed())
    assert (config.calibration.alpha, config.profile.clusters) == (0.5, 100)
    assert (config.quantizer.low, config.quantizer.high, config.quantizer.propagation) == (
        "billm",
        "gptq4",
        "exact",
    )
    assert config.quantizer.tiers["billm_faithful"] == BillmTier(
        true_sequential=False, faithful=True
    )
    assert config.quantizer.tiers["billm"] == BillmTier(act_order=True)
    assert len(config.evaluation.benchmarks) == 9


OVERRIDES = """quantizer.tiers.gptq4.group_size=64 quantizer.tiers.billm.faithful=true
model=pocket_llava calibration=text calibration.alpha=0.5 calibration.tokens=2048 profile.clusters=150
order=entropy_reverse order=depth order=depth_reverse order=random allocation=uniform allocation.k=4 quantizer.low=gptq2
quantizer.high=gptq3 quantizer.high=gptq8 quantizer.low=rtn4 quantizer.high=float16 quantizer.propagation=high
quantizer.propagation=float evaluation=pocket evaluation.samples=5 tracking=wandb tracking=none seed=1""".split()


@pytest.mark.parametrize("override", OVERRIDES)
def test_every_promised_override_works(override: str) -> None:
    assert isinstance(to_config(composed(override)), RunConfig)


def test_an_override_reaches_its_tier_and_no_other() -> None:
    tiers = to_config(composed("quantizer.tiers.gptq4.group_size=64")).quantizer.tiers
    assert tiers["gptq4"] == GptqTier(
        group_size=64, act_order=True, static_groups=True, clip_steps=20, descent=1
    )
    assert tiers["gptq3"] == GptqTier(
        bits=3, act_order=True, static_groups=True, clip_steps=20, descent=1
    )


@pytest.mark.parametrize("choice", ["seed=1", "experiment=luq_k4", "model=qwen2_5_vl_7b"])
def test_the_plain_form_of_a_config_builds_the_same_config(choice: str) -> None:
    config = to_config(composed(choice))
    assert build(RunConfig, json.loads(json.dumps(plain(config)))) == config


def test_a_benchmark_may_have_a_source_of_its_own() -> None:
    config = to_config(composed("evaluation.sources.gqa=/data", "evaluation.sources.mme=hub"))
    assert config.evaluation.sources == {"gqa": "/data", "mme": "hub"}


def test_one_seed_reaches_everything() -> None:
    config = to_config(composed("seed=7"))
    assert {
        config.calibration.seed,
        config.profile.seed,
        config.order.seed,
        config.evaluation.seed,
        config.seed,
    } == {7}


def test_experiments_set_what_they_say() -> None:
    text = to_config(composed("experiment=luq_k4_text"))
    assert (text.calibration.alpha, text.allocation.k, text.allocation.name) == (0.0, 4, "count")
    uniform = to_config(composed("experiment=gptq3"))
    assert (uniform.allocation.name, uniform.quantizer.high) == ("uniform", "gptq3")
    assert uniform.quantizer.parts == {}
    whole = to_config(composed("experiment=whole_4bit"))
    assert whole.quantizer.parts == dict.fromkeys(PARTS, "gptq4")
    smaller = to_config(composed("experiment=whole_luq"))
    assert smaller.quantizer.parts == {
        "embeddings": "gptq4",
        "head": "trellis3",
        "vision": "trellis2",
        "projector": "trellis2",
    }


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["calibration.alpha=2"], r"calibration\.alpha=2\.0"),
        (["allocation.k=four"], r"allocation\.k='four' is not possible: it must be of type int"),
        (["quantizer.low=bilm"], "did you mean billm"),
        (["+allocation.kk=3"], "unknown setting in allocation 'kk'"),
        (["allocation=threshold"], "exactly one of"),
        (["allocation=budget", "allocation.bits=nan"], r"allocation\.bits=nan"),
        (["seed=-1"], r"seed=-1 is not possible"),
        (["evaluation.sources.gqaa=/data"], "did you mean gqa"),
        (["group=../../x"], r"group='\.\./\.\./x' .* a plain name"),
        (["group=/x"], "group='/x' .* a plain name"),
        (["group=.."], r"group='\.\.' .* a plain name"),
        (["evaluation.benchmarks=gqa"], r"a list, as in evaluation\.benchmarks=\[gqa\]"),
        (["model=own"], r"model\.path is not set: .*model\.path=DIR"),
        (["calibration.tokens=${oc.env:NOT_THERE}"], "the environment has no variable NOT_THERE"),
        (["calibration.tokens=${x.y}"], r"\$\{x\.y\} is not possible: there is no setting x\.y"),
        (["quantizer.tiers.gptq5.bits=3"], r"gptq5=.*Is the tier's name misspelt"),
        (["+model.sytem_prompt=x"], "did you mean system_prompt"),
        (
            ["quantizer.tiers.gptq4.grup_size=64"],
            r"quantizer\.tiers\.gptq4 'grup_size': did you mean group_size",
        ),
        (
            ["quantizer.tiers.gptq4.bitz=3"],
            r"quantizer\.tiers\.gptq4 'bitz': did you mean bits",
        ),
        (["quantizer.tiers.rtn4.window=12"], r"setting in quantizer\.tiers\.rtn4 'window'"),
        (
            ["quantizer.tiers.gptq4.method=gptqq"],
            r"quantizer\.tiers\.gptq4\.method 'gptqq': did you mean gptq",
        ),
    ],
)
def test_bad_values_are_config_errors(overrides: list[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        to_config(composed(*overrides))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("model=pocket_lava", "did you mean pocket_llava"),
        ("order=entropie", "did you mean entropy"),
        ("calibration=txt", "did you mean text"),
        ("sweep=pareto", "start a named sweep with `luq sweep pareto`"),
    ],
)
def test_unknown_choices_come_with_the_nearest(override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_choices([override])
    check_choices(["model=pocket_llava", "order=entropy,depth", "allocation.k=1,2", "seed=1"])


def test_schema_and_yaml_agree(tmp_path: Path) -> None:
    """No setting of a dataclass is missing in the composed config, and none is there twice under
    another name.
    """
    values = OmegaConf.to_container(composed(), resolve=True)
    assert isinstance(values, dict)
    assert set(values) - {"experiment"} == set(RunConfig.__dataclass_fields__)


OF_HYDRA = {
    "several values": (["order=depth,entropy"], "several values are several runs: `luq run -m`"),
    "a range": (["seed=range(1,3)"], "several values are several runs"),
    "a plus": (["+order=depth"], "order is there anyway: write order=NAME, without the +"),
    "a launcher": (["hydra/launcher=nope"], "there is no hydra/launcher/nope: known are basic"),
    "a setting of Hydra's": (["hydra.nope=3"], "Hydra has no setting 'hydra.nope'"),
    "an interpolation": (["seed=${x}"], r"\$\{x\} is not possible: there is no setting x"),
}


@pytest.mark.parametrize(("overrides", "said"), OF_HYDRA.values(), ids=OF_HYDRA)
def test_what_hydra_refuses_is_said_without_its_words(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    done = luq("run", *overrides, f"paths.outputs={tmp_path}", width=1000)
    assert done.returncode == 1
    assert re.search(said, done.stderr), done.stderr
    for word in ("job with overrides", "Config search path", "multirun", "defaults list"):
        assert word not in done.stderr
