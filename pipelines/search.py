"""A search with optuna: `luq run -m hydra/sweeper=optuna`, an ask-and-tell loop that resumes.

A trial is a run. What the store has is not made again, so that settings of which only the
evaluation is new cost only that. The study is a file, outputs/optuna/NAME.db: a search that was
killed goes on with the trial that it was at.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from luq.config.checks import is_plain_name, require, require_count, require_seed
from luq.errors import ConfigError, StoreError, brief, unknown
from luq.store.writers import sole_writer
from pipelines import console
from pipelines.objectives import MAXIMISED, Values
from pipelines.record import ELSEWHERE
from pipelines.sheet import Column, Sheet
from pipelines.units import human

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

# Runs the jobs of some overrides, numbered from the second argument on; what they return.
Launch = Callable[[Sequence[Sequence[str]], int], list[Values]]
SAMPLERS = ("tpe", "random", "nsgaii")
Direction = Literal["maximize", "minimize"]
ASKED = "asked"  # attribute of a study: what it searches
FAILURE = "failure"  # attribute of a trial whose run failed, which an interrupted one does not have


@dataclass(frozen=True)
class SearchSettings:
    """How is searched, as `hydra.sweeper` says it; checked."""

    n_trials: int
    n_jobs: int
    sampler: str
    seed: int
    study_name: str
    storage: str | None
    outputs: Path
    objective: tuple[str, ...]
    directions: tuple[Direction, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "SearchSettings":
        """The settings of a table of plain values.

        Raises:
            ConfigError: it names the setting that does not work.
        """
        require_count("hydra.sweeper.n_trials", values["n_trials"], 1)
        require_count("hydra.sweeper.n_jobs", values["n_jobs"], 1)
        require_seed("hydra.sweeper.seed", values["seed"])
        name = str(values["study_name"])
        require(is_plain_name(name), "hydra.sweeper.study_name", name, "a plain name")
        if values["sampler"] not in SAMPLERS:
            raise unknown("sampler", str(values["sampler"]), SAMPLERS)
        objective = tuple(values["objective"])
        return cls(
            n_trials=values["n_trials"],
            n_jobs=values["n_jobs"],
            sampler=values["sampler"],
            seed=values["seed"],
            study_name=name,
            storage=values["storage"],
            outputs=Path(values["outputs"]),
            objective=objective,
            directions=_directions(values["direction"], objective),
        )

    @property
    def file(self) -> Path:
        """The study's file, unless it has a storage of its own."""
        return self.outputs / "optuna" / f"{self.study_name}.db"


def _directions(setting: Any, objective: Sequence[str]) -> tuple[Direction, ...]:
    """Whether each objective is made large or small."""
    if setting is None:
        return tuple("maximize" if name in MAXIMISED else "minimize" for name in objective)
    directions: list[Any] = [setting] if isinstance(setting, str) else list(setting)
    fits = len(directions) == len(objective) and set(directions) <= set(get_args(Direction))
    allowed = f"maximize or minimize for each of objective={list(objective)}"
    require(fits, "hydra.sweeper.direction", directions, allowed)
    return tuple(directions)


@dataclass(frozen=True)
class Space:
    """What is searched: setting -> its distribution; and the overrides that all trials share."""

    distributions: dict[str, "BaseDistribution"]
    fixed: list[str]

    @classmethod
    def of(cls, overrides: Sequence[str]) -> "Space":
        """The space that overrides in Hydra's grammar span.

        Raises:
            ConfigError: none of them has several values.
        """
        distributions: dict[str, BaseDistribution] = {}
        fixed: list[str] = []
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for text, override in zip(overrides, parsed, strict=True):
            if override.is_sweep_override():
                distributions[override.get_key_element()] = _distribution(override)
            else:
                fixed.append(text)
        if not distributions:
            raise ConfigError(
                "nothing to search: give a setting several values, as allocation.k=range(1,9), "
                "quantizer.low=billm,gptq2 or allocation.quantile=interval(0.1,0.9)"
            )
        return cls(distributions, fixed)

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial."""
        return [*self.fixed, *(f"{name}={value}" for name, value in params.items())]


def _distribution(override: Override) -> "BaseDistribution":
    """`1,2` and `choice(a,b)`: one of them; `range(1,9)`: a whole number; `interval(0,1)`: any
    number between, a whole one as `int(interval(1,9))`, by its logarithm as `tag(log, ...)`.
    """
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        is_log = "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=is_log)
        return FloatDistribution(float(low or 0), float(high or 0), log=is_log)
    if isinstance(value, RangeSweep):
        numbers = list(override.sweep_iterator())
        whole_numbers = [number for number in numbers if isinstance(number, int)]
        if whole_numbers == numbers and len(numbers) > 1 and value.step > 0:
            return IntDistribution(whole_numbers[0], whole_numbers[-1], step=int(value.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def search(settings: SearchSettings, overrides: Sequence[str], launch: Launch) -> None:
    """Run trials until the study has as many as are asked for; print the best.

    Args:
        settings: how is searched.
        overrides: those with several values are searched, the others hold for all trials.
        launch: runs trials.

    Raises:
        ConfigError: optuna is not installed, nothing is to be searched, or the study of this name
            searched something else.
        StoreError: another process is at the study.
    """
    if find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna needs optuna: pip install 'luq[optuna]'")
    from optuna.logging import WARNING, set_verbosity

    set_verbosity(WARNING)
    space = Space.of(overrides)
    with _storage(settings) as storage:
        study = _study(settings, storage)
        _check_same(study, settings, space)
        if settings.storage is None:  # nobody else is at it: what is under way was killed
            _requeue_interrupted(study)
        study.sampler = _sampler(settings, len(study.get_trials(deepcopy=False)))
        _run_trials(study, settings, space, launch)
        _show_best(study, settings, space)


def _study(settings: SearchSettings, storage: str) -> "Study":
    """The study of a name, made if it is not there.

    Raises:
        StoreError: its file is none, or is damaged.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.create_study(
            storage=storage,
            study_name=settings.study_name,
            load_if_exists=True,
            directions=list(settings.directions),
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        raise StoreError(
            f"the study {settings.study_name!r} in {storage} cannot be read ({brief(error)}): "
            "delete the file, the runs themselves are kept, or give hydra.sweeper.study_name=NAME"
        ) from error


@contextlib.contextmanager
def _storage(settings: SearchSettings) -> Iterator[str]:
    """Where the study is kept: a file that no other process searches in, or what was given."""
    if settings.storage is not None:
        yield settings.storage
        return
    file = settings.file
    file.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(file, "search"):
        yield f"sqlite:///{file.resolve()}"


def _sampler(settings: SearchSettings, trials: int) -> "BaseSampler":
    """The sampler, whose random numbers do not begin anew where a search is resumed."""
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    seed = settings.seed + trials
    if settings.sampler == "random":
        return RandomSampler(seed)
    if settings.sampler == "nsgaii":
        return NSGAIISampler(seed=seed)
    return TPESampler(seed=seed)


def _check_same(study: "Study", settings: SearchSettings, space: Space) -> None:
    """Refuse to go on with a study of something else: its trials say nothing of this one's."""
    current = {
        "objective": dict(zip(settings.objective, settings.directions, strict=True)),
        "fixed": sorted(o for o in space.fixed if not o.startswith(ELSEWHERE)),
        "searched": {name: str(kind) for name, kind in space.distributions.items()},
    }
    before = study.user_attrs.get(ASKED)
    if before is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(ASKED, current)
    elif before != current:
        raise ConfigError(
            f"the study {settings.study_name!r} was begun with other settings "
            f"({_difference(before or {}, current)}): give the same ones, or another "
            "hydra.sweeper.study_name"
        )


def _difference(before: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    changed = [name for name in current if before.get(name) != current[name]]
    return "; ".join(f"{name}: {before.get(name)}" for name in changed)


def _requeue_interrupted(study: "Study") -> None:
    """Have trials that a kill left under way tried again, first of all."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _run_trials(study: "Study", settings: SearchSettings, space: Space, launch: Launch) -> None:
    spent = _spent(study)
    if spent:
        console.out.print(f"study {settings.study_name}: {spent} trials are there already")
    while spent < settings.n_trials:
        count = min(settings.n_jobs, settings.n_trials - spent)
        trials = [study.ask(space.distributions) for _ in range(count)]
        jobs = [space.overrides(trial.params) for trial in trials]
        for trial, values in zip(trials, launch(jobs, spent), strict=True):
            _tell(study, trial, values, settings)
        spent = _spent(study)


def _spent(study: "Study") -> int:
    """Trials that ended by themselves, well or not."""
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return sum(t.state == TrialState.COMPLETE or FAILURE in t.user_attrs for t in finished)


def _tell(study: "Study", trial: "Trial", values: Values, settings: SearchSettings) -> None:
    """Hand the values of a trial to the study, and say them."""
    from optuna.trial import TrialState

    numbers = values if isinstance(values, list) else [values]
    if any(math.isnan(number) for number in numbers):
        trial.set_user_attr(FAILURE, "the run failed, or has no such number")
        study.tell(trial, state=TrialState.FAIL)
        console.out.print(f"  trial {trial.number} failed")
        return
    study.tell(trial, numbers)
    values_text = ", ".join(
        f"{name} {_shown(name, number)}"
        for name, number in zip(settings.objective, numbers, strict=True)
    )
    console.out.print(f"  trial {trial.number}: {values_text}")


def _shown(name: str, value: float) -> str:
    """An objective's value for people."""
    return human(value) if name.endswith("bytes") else f"{value:.3f}"


def _show_best(study: "Study", settings: SearchSettings, space: Space) -> None:
    """Print the best trial; with several objectives those that no other beats in all of them."""
    searched = list(space.distributions)
    columns = [Column("trial", rank=1), *(Column(name) for name in settings.objective)]
    columns += [Column(name) for name in searched]
    what = "the best trial" if len(settings.objective) == 1 else "trials that no other beats"
    table = Sheet(f"study {settings.study_name}: {what}, of {_spent(study)}", columns)
    best: list[FrozenTrial] = sorted(study.best_trials, key=lambda trial: trial.values)
    listed: set[tuple[str, ...]] = set()
    for trial in best:
        params = tuple(str(trial.params[name]) for name in searched)
        if params in listed:  # the sampler asked for it twice
            continue
        listed.add(params)
        pairs = zip(settings.objective, trial.values, strict=True)
        table.add_row(str(trial.number), *(_shown(name, v) for name, v in pairs), *params)
    console.out.print(table)
