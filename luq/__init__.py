"""LUQ: layerwise ultra-low-bit quantization of multimodal LLMs.

After `import luq`, transformers loads folders that LUQ exported:
`AutoModelForImageTextToText.from_pretrained(DIR)`.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
_QUANTIZERS = "transformers.quantizers.auto"


class _Register(Loader):
    """Loads transformers' table of quantizers, and then adds ours."""

    def __init__(self, loader: Any):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._loader.create_module(spec)
        return found

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
