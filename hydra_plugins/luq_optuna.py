"""`hydra/sweeper=optuna`: a search for good settings instead of all combinations.

Hydra takes plugins from this package alone, and imports them at every start: the search itself is
in `pipelines/search.py`, which imports optuna. (The sweeper that Hydra's authors published under
this name needs an optuna below 3.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class OptunaSettings:
    """The settings of `hydra.sweeper`."""

    _target_: str = "hydra_plugins.luq_optuna.OptunaSweeper"
    n_trials: int = 20  # in all, those of earlier starts too
    n_jobs: int = 1  # trials that are launched together
    sampler: str = "tpe"
    seed: int = 0
    study_name: str = "${group}"
    storage: str | None = None  # a URL of optuna's; null for a file in the outputs folder
    outputs: str = "${paths.outputs}"
    objective: Any = "${objective}"
    direction: Any = None  # maximize or minimize for each objective; null for what it is
    params: dict[str, Any] = field(default_factory=dict)  # setting -> values, as on a command line


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna", node=OptunaSettings, provider="luq"
)


class OptunaSweeper(Sweeper):
    """Asks optuna for settings, runs them, and tells it what came of them."""

    def __init__(self, params: DictConfig, **settings: Any):
        self.params = params
        self.settings = settings
        self.launcher: Launcher | None = None
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what `sweep` needs."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search; `arguments` are the overrides of the command line that are not Hydra's own."""
        from pipelines.search import SearchSettings, search

        launcher = self.launcher
        if launcher is None:
            raise RuntimeError("Hydra calls setup before sweep")

        def launch(jobs: Sequence[Sequence[str]], first: int) -> list[Any]:
            returned = launcher.launch(jobs, initial_job_idx=first)
            return [job.return_value for job in returned]

        overrides = [f"{name!s}={values}" for name, values in self.params.items()]
        search(SearchSettings.of(self.settings), [*overrides, *arguments], launch)
