"""LUQ: layerwise ultra-low-bit quantization of multimodal LLMs.

The API, a function a step, is in `luq.api`; its names stand here and are imported when they are
first used. After `import luq`, transformers loads folders that LUQ exported:
`AutoModelForImageTextToText.from_pretrained(DIR)`.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luq.api import (
        LoadedModel,
        PackedModel,
        Plan,
        Profile,
        Score,
        evaluate,
        load,
        plan,
        profile,
        quantize,
    )
    from luq.config import (
        ArbRcTier,
        BillmTier,
        CalibrationConfig,
        Float16Tier,
        GgufTier,
        GptqTier,
        RtnTier,
        TernaryTier,
        TrellisTier,
    )
    from luq.config.named_tiers import NAMED_TIERS
    from luq.errors import ConfigError, DataError, LuqError, ModelError, StoreError

__version__ = "0.1.0"
__all__ = [
    "NAMED_TIERS",
    "ArbRcTier",
    "BillmTier",
    "CalibrationConfig",
    "ConfigError",
    "DataError",
    "Float16Tier",
    "GgufTier",
    "GptqTier",
    "LoadedModel",
    "LuqError",
    "ModelError",
    "PackedModel",
    "Plan",
    "Profile",
    "RtnTier",
    "Score",
    "StoreError",
    "TernaryTier",
    "TrellisTier",
    "evaluate",
    "load",
    "plan",
    "profile",
    "quantize",
]
_QUANTIZERS = "transformers.quantizers.auto"


def __getattr__(name: str) -> Any:
    """A name of the API: torch and transformers are imported with the first that needs them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "luq.api"
    if name.endswith("Error"):
        home = "luq.errors"
    elif name == "NAMED_TIERS":
        home = "luq.config.named_tiers"
    elif name.endswith(("Tier", "Config")):
        home = "luq.config"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Register(Loader):
    """Loads transformers' table of quantizers, and then adds ours."""

    def __init__(self, loader: Any):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        import_module("luq.export.hf")


class _WhenNeeded(MetaPathFinder):
    """Waits for transformers: to import it (and torch) here would make everything that imports luq
    wait for it.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _QUANTIZERS:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Register(spec.loader)
        return spec


if _QUANTIZERS in sys.modules:
    import_module("luq.export.hf")
else:
    sys.meta_path.insert(0, _WhenNeeded())
