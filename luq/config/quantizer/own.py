"""A tier whose class stands outside of the project: `class: "package.module:Class"` in its table.

The class is a frozen dataclass, a subclass of `TierConfig` with `make_quantizer()`. It is imported
when a command names it, never because a file that was read says so: of a record's tier only the
path and the parameters are known.
"""

import hashlib
import inspect
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from luq.config.checks import VOLATILE
from luq.config.quantizer.base import TierConfig
from luq.errors import ConfigError, brief


@dataclass(frozen=True)
class OwnTier(TierConfig):
    """A tier by the path of its class, what its module says, and its parameters."""

    method: ClassVar[str] = "own"
    path: str = ""  # MODULE:CLASS
    source: str = ""  # of the class: its declared version, or the digest of its module
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    # None where the tier was read from a record.
    tier: TierConfig | None = field(default=None, compare=False, metadata=VOLATILE)

    def __post_init__(self) -> None:
        """The class checks its parameters itself."""

    @property
    def imported(self) -> TierConfig:
        """The tier itself; a ConfigError where its class was not imported."""
        if self.tier is None:
            raise ConfigError(
                f"the tier {self.path} was read from a record, which imports no code: start a "
                "command whose config names it"
            )
        return self.tier

    @property
    def data_free(self) -> bool:  # type: ignore[override]  # a constant of the other tiers
        """Whether its class needs no calibration data."""
        return self.imported.data_free

    @property
    def is_exact(self) -> bool:  # type: ignore[override]  # a constant of the other tiers
        """Whether its class loses nothing."""
        return self.imported.is_exact

    @property
    def decodes_rows(self) -> bool:  # type: ignore[override]  # a constant of the other tiers
        """Whether its class says that its format decodes single rows; of a record's it is true."""
        return self.tier is None or self.tier.decodes_rows

    @property
    def sees_packed_groups(self) -> bool:
        return self.imported.sees_packed_groups

    @property
    def least_bits(self) -> float:
        return self.imported.least_bits


def tier_class(path: str, setting: str) -> type[TierConfig]:
    """The class of a tier by its path.

    Args:
        path: MODULE:CLASS, as Python imports it.
        setting: the tier's dotted name in the config, for errors.

    Raises:
        ConfigError: there is none, or it is no class of a tier.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(
            f'{setting}.class={path!r} is not possible: it must be "MODULE:CLASS", as in '
            '"mypackage.tiers:MyTier"'
        )
    try:
        kind = getattr(import_module(module_name), name)
    except Exception as error:  # the user's module raises any kind
        raise ConfigError(
            f"{setting}.class={path!r} cannot be imported ({brief(error)}): install its package, "
            "or put its folder on PYTHONPATH or its file into --config-dir"
        ) from error
    is_tier = isinstance(kind, type) and issubclass(kind, TierConfig) and is_dataclass(kind)
    if not is_tier or not callable(getattr(kind, "make_quantizer", None)):
        raise ConfigError(
            f"{setting}.class={path!r} is not possible: it must be a frozen dataclass, a subclass "
            "of luq.config.TierConfig with a method make_quantizer()"
        )
    return kind  # type: ignore[no-any-return]  # said above


def source_of(kind: type[TierConfig], setting: str) -> str:
    """What changes when the class does: the version that it declares, else its module's digest.

    Raises:
        ConfigError: it declares none, and its module has no file.
    """
    version = getattr(kind, "version", None)
    if version is not None:
        return f"version {version}"
    file = inspect.getsourcefile(kind)
    if file is None or not Path(file).is_file():
        raise ConfigError(
            f"{setting}.class: the module of {kind.__name__} has no file that tells its versions "
            "apart. Declare `version: ClassVar[int] = 1` in the class, and raise it with changes"
        )
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
