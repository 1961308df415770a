"""Content keys: canonical JSON -> sha256, shortened to 16 hex digits. Volatile settings are named here, once."""

import hashlib
import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from luq.config import building

VOLATILE = frozenset(
    {"tracking", "paths", "group", "checkpoint", "device", "activations_gb", "batch_size"}
)  # never change a result


def canonical(value: Any) -> str:
    """JSON with sorted keys; dataclasses become dicts. Anything else than plain data is a TypeError."""

    def plain(v: Any) -> Any:
        if is_dataclass(v) and not isinstance(v, type):
            return plain(building.plain(v))
        if isinstance(v, dict):
            return {str(k): plain(x) for k, x in v.items() if str(k) not in VOLATILE}
        if isinstance(v, list | tuple):
            return [plain(x) for x in v]
        if v is None or isinstance(v, str | int | float | bool):
            return v
        raise TypeError(f"a key cannot hold {type(v).__name__}")

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(*parts: Any) -> str:
    """The key of everything that determines an artefact."""
    return hashlib.sha256(canonical(list(parts)).encode()).hexdigest()[:16]


def file_digest(file: Path, edge: int = 32 << 20) -> tuple[int, str]:
    """A file's size and the sha256 of its content (of files over 2 * `edge` bytes: of both ends)."""
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as handle:
        digest.update(handle.read(edge))
        if size > edge:
            handle.seek(max(edge, size - edge))
            digest.update(handle.read())
    return size, digest.hexdigest()
