"""Artefacts on disk: <root>/<stage>/<key>/, keyed by content. Existence means completeness.

An artefact is written under a temporary name, its manifest (file -> bytes, sha256) last, then renamed: a
reader never sees half of one, whatever is killed. A file lock keeps two processes from computing the same
key at once. Knows nothing of models.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luq.errors import StoreError

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name in the same folder, then rename it over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
    os.chmod(scratch, 0o644)
    os.replace(scratch, path)


class Store:
    """Artefact folders under one root. `made` and `found` list what this process computed and reused."""

    def __init__(self, root: Path):
        self.root = root
        self.made: list[str] = []
        self.found: list[str] = []

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        return (self.path(stage, key) / MANIFEST).exists()

    def verify(self, stage: str, key: str) -> Path:
        """The artefact's folder, after its files were compared with its manifest."""
        folder = self.path(stage, key)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder / MANIFEST} cannot be read ({error}): delete {folder} and run again") from error
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.exists():
                raise StoreError(f"{file} is missing: delete {folder} and run again")
            if file.stat().st_size != entry["bytes"] or _sha256(file) != entry["sha256"]:
                raise StoreError(f"{file} does not match its manifest: delete {folder} and run again")
        return folder

    def get(self, stage: str, key: str, build: Callable[[Path], None], what: str = "") -> Path:
        """The verified folder of an artefact; `build(folder)` fills it if it is not there yet."""
        label = f"{stage}/{key}"
        if not self.has(stage, key):
            with self._lock(stage, key, what or label):
                if not self.has(stage, key):
                    self._build(stage, key, build)
                    self.made.append(label)
                    return self.path(stage, key)
        if label not in self.made and label not in self.found:
            self.found.append(label)
        return self.verify(stage, key)

    def _lock(self, stage: str, key: str, what: str) -> FileLock:
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{key}.lock")
        try:
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            log.warning("waiting for another process that makes %s", what)
        return lock

    def _build(self, stage: str, key: str, build: Callable[[Path], None]) -> None:
        target = self.path(stage, key)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}."))
        try:
            build(scratch)
            files = {
                str(f.relative_to(scratch)): {"bytes": f.stat().st_size, "sha256": _sha256(f)}
                for f in sorted(scratch.rglob("*"))
                if f.is_file()
            }
            write_json(scratch / MANIFEST, {"stage": stage, "key": key, "files": files})
            os.chmod(scratch, 0o755)
            if target.exists():  # a folder without a manifest: left by hand or by a crash of the file system
                shutil.rmtree(target)
            os.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
