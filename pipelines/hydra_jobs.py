"""Jobs through Hydra: `luq run`, `profile`, `quantize` and `evaluate` with overrides and `-m`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipelines import console, run, run_names
from pipelines.conf_folder import CONF, allow_modules
from pipelines.next_steps import after_runs
from pipelines.objectives import Values
from pipelines.schema import check_choices, composition_error, register, with_own_model

RAISE = "HYDRA_FULL_ERROR"


def run_jobs(stage: str, overrides: Sequence[str]) -> int:
    """Compose the config and run one stage for every job.

    What `hydra.main` does, but with the words that are given: it reads those of the process, and
    has no public twin that takes others, which is why two private names of Hydra are used.

    Returns:
        The exit code: 0 if all jobs succeeded.

    Raises:
        ConfigError: Hydra cannot make a config of the overrides.
    """
    version.setbase(None)  # the behaviour of the installed version, as `hydra.main` is told to use
    parser = get_args_parser()
    parser.prog = f"luq {stage}"
    try:
        arguments = parser.parse_args(list(overrides))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    config_dir = None if arguments.config_dir is None else Path(arguments.config_dir)
    arguments.overrides = with_own_model(arguments.overrides)
    check_choices(arguments.overrides, config_dir)
    allow_modules(config_dir)
    console.log_warnings()
    register()
    failures = run.Failures()
    finished = run.Finished()
    untitled = _shared(arguments.overrides) if arguments.multirun else []

    def job(composed: DictConfig) -> Values:
        return run.job(stage, composed, failures=failures, finished=finished, untitled=untitled)

    try:
        with _errors_come_through():
            _run_hydra(
                args=arguments,
                args_parser=parser,
                task_function=job,
                config_path=str(CONF),
                config_name="run",
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise composition_error(error) from error
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        GlobalHydra.instance().clear()
    if len(finished.records) > 1:
        names = run_names.labels([record.name for record in finished.records])
        console.out.print(console.sweep_table(dict(zip(names, finished.records, strict=True))))
    if finished.records:
        console.show_next(after_runs(finished.records))
    return 1 if failures.names else 0


def _shared(overrides: Sequence[str]) -> list[str]:
    """The overrides of a multirun that are the same for all its jobs."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if not override.is_sweep_override()
    ]


@contextmanager
def _errors_come_through() -> Iterator[None]:
    """Hydra raises what went wrong, instead of printing a traceback and exiting."""
    value_before = os.environ.get(RAISE)
    os.environ[RAISE] = "1"
    try:
        yield
    finally:
        if value_before is None:
            del os.environ[RAISE]
        else:
            os.environ[RAISE] = value_before
