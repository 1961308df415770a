"""Many configs composed by Hydra: what runs of a sweep share is composed once.

Hydra takes a tenth of a second to read and merge the files of a run, and the runs of a sweep mostly
differ in single values. Choices of config groups decide which files are merged; values are put into
the result afterwards, in their order. So runs with the same choices get their values in copies of
one config.
"""

import pickle
from collections.abc import Sequence

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

CONFIG = "run"  # the file that names the groups


class Composer:
    """Composes configs, where Hydra is initialized.

    Args:
        shared: overrides that all configs have, such as the search path.
    """

    def __init__(self, shared: Sequence[str] = ()):
        loader = GlobalHydra.instance().config_loader()
        if isinstance(loader, ConfigLoaderImpl):
            loader.repository = _Files(loader.get_search_path())
        self._shared = list(shared)
        self._parser = OverridesParser.create()
        self._by_choices: dict[tuple[str, ...], bytes] = {}  # pickled configs

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What `hydra.compose` makes of overrides.

        Raises:
            HydraException: they make no config.
        """
        choices: list[Override] = []
        values: list[Override] = []
        for override in self._parser.parse_overrides(list(overrides)):
            (values if _is_value(override) else choices).append(override)
        if _depend_on_order(choices, values):
            return compose(CONFIG, [*overrides, *self._shared])
        # Hydra's own function puts the values in, so that they mean what they mean everywhere. It
        # has no public twin.
        config = self._of_choices(choices)
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def _of_choices(self, choices: Sequence[Override]) -> DictConfig:
        """A config of one's own: to load a pickled one is ten times as quick as to copy it."""
        words = tuple(str(override.input_line) for override in choices)
        if words not in self._by_choices:
            self._by_choices[words] = pickle.dumps(compose(CONFIG, [*words, *self._shared]))
        config: DictConfig = pickle.loads(self._by_choices[words])  # made above
        return config


class _Files(ConfigRepository):
    """The files of configs, each read once for all configs that are composed of them."""

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(search_path)
        self._pickled: dict[str, bytes] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> "_Files":
        """Itself: Hydra copies it for each config, since a config can add folders to the search
        path. Those of one composer all add the same.
        """
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        """A file's content, in an object of its own: Hydra changes it as it merges."""
        if config_path not in self._pickled:
            self._pickled[config_path] = pickle.dumps(super().load_config(config_path))
        content: ConfigResult | None = pickle.loads(self._pickled[config_path])
        return content


def _is_value(override: Override) -> bool:
    """Whether an override is of a setting within a group: it cannot choose a file."""
    group, dot, _ = override.key_or_group.partition(".")
    is_plain = override.package is None and not override.is_sweep_override()
    return bool(dot) and is_plain and group != "hydra" and "/" not in group


def _depend_on_order(choices: Sequence[Override], values: Sequence[Override]) -> bool:
    """Whether an override of a whole group and one within it could undo each other."""
    groups = {override.key_or_group.partition(".")[0] for override in values}
    for override in choices:
        if override.key_or_group in groups and not isinstance(override.value(), str):
            return True
    return False
