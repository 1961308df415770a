"""Where configs are: those that ship with LUQ, and a user's own beside them.

A user's folder (`--config-dir DIR`) has the same groups: DIR/model/NAME.yaml, DIR/experiment/...,
DIR/sweep/NAME.yaml. Its names are added to those that ship, and none may hide one of them.
"""

import os
import sys
from pathlib import Path

from luq.errors import ConfigError

HERE = Path(__file__).parent
INSTALLED = HERE / "conf"
# Beside the packages in a checkout, inside of this one in an installed wheel.
CONF = INSTALLED if INSTALLED.is_dir() else HERE.parent / "conf"
SWEEPS = "sweep"  # the folder of named sweeps, which is no group of the config


def allow_modules(config_dir: Path | None) -> None:
    """Let a config name classes of Python files in the user's folder; nothing is imported yet.

    The folder stands last on the path of modules: it hides none.
    """
    if config_dir is not None and str(config_dir.resolve()) not in sys.path:
        sys.path.append(str(config_dir.resolve()))


def files(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """The configs of a group by name.

    Args:
        group: A folder of configs.
        config_dir: A user's folder of groups.

    Raises:
        ConfigError: The user's folder is none, or hides a config that ships.
    """
    by_name = {file.stem: file for file in (CONF / group).glob("*.yaml")}
    if config_dir is None:
        return by_name
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
    for file in sorted((config_dir / group).glob("*.yaml")):
        if file.stem in by_name:
            raise ConfigError(
                f"{file} has the name of a config that ships with luq: give it another one"
            )
        by_name[file.stem] = file
    return by_name


def default_outputs() -> Path:
    """Where everything goes unless a command says otherwise, as `conf/paths` has it."""
    return Path(os.environ.get("LUQ_OUTPUTS", "outputs"))
