"""Jobs through Hydra: `luq run`, `profile`, `quantize` and `evaluate` with overrides and `-m`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipelines import console, run
from pipelines.conf_folder import CONF, allow_modules
from pipelines.schema import check_choices, composition_error, register, with_own_model

RAISE = "HYDRA_FULL_ERROR"


def run_jobs(stage: str, overrides: Sequence[str]) -> int:
    """Compose the config and run one stage for every job.

    What `hydra.main` does, but with the words that are given instead of those of the process.

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
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else 1
    own = None if arguments.config_dir is None else Path(arguments.config_dir)
    arguments.overrides = with_own_model(arguments.overrides)
    check_choices(arguments.overrides, own)
    allow_modules(own)
    console.log_warnings()
    register()
    failures = run.Failures()

    def job(composed: DictConfig) -> None:
        run.job(stage, composed, failures=failures)

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
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else 1
    finally:
        GlobalHydra.instance().clear()
    return 1 if failures.names else 0


@contextmanager
def _errors_come_through() -> Iterator[None]:
    """Hydra raises what went wrong, instead of printing a traceback and exiting."""
    before = os.environ.get(RAISE)
    os.environ[RAISE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RAISE]
        else:
            os.environ[RAISE] = before
