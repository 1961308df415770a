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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luq.errors import StoreError

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
BUILT = "built.jsonl"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name in the same folder, then rename it over `path`.

    The name is always the same, so that a killed process leaves nothing that the next one does not use up: whoever writes
    a file that others may write too holds a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    os.replace(scratch, path)


class Store:
    """Artefact folders under one root. `made` and `found` list what this process computed and reused."""

    def __init__(self, root: Path):
        self.root = root
        self._locks = (
            root / ".locks"
        )  # empty files that stay: to delete one while another process waits for it is a race
        self._locks.mkdir(parents=True, exist_ok=True)
        self.about = ""  # what is worked on (a model's fingerprint), for the log
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
            raise StoreError(
                f"{folder / MANIFEST} cannot be read ({error}): delete {folder} and run again"
            ) from error
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.exists():
                raise StoreError(f"{file} is missing: delete {folder} and run again")
            if file.stat().st_size != entry["bytes"] or _sha256(file) != entry["sha256"]:
                raise StoreError(
                    f"{file} does not match its manifest: delete {folder} and run again"
                )
        return folder

    def get(self, stage: str, key: str, build: Callable[[Path], None], what: str = "") -> Path:
        """The verified folder of an artefact; `build(folder)` fills it if it is not there yet."""
        label = f"{stage}/{key}"
        if not self.has(stage, key):
            with self.lock(f"{stage}-{key}", what or label):
                if not self.has(stage, key):
                    self._build(stage, key, build, what or label)
                    self.made.append(label)
                    return self.path(stage, key)
        if label not in self.made and label not in self.found:
            self.found.append(label)
        return self.verify(stage, key)

    def lock(self, name: str, what: str) -> "FileLock":
        """The lock of a name; if another process holds it, a line says that we wait, and for what (if that is said)."""
        lock = FileLock(self._locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            if what:
                log.warning("waiting for another process that makes %s", what)
        return lock

    def _build(self, stage: str, key: str, build: Callable[[Path], None], what: str) -> None:
        """Under the lock: what an earlier process left half done goes, then the artefact is made."""
        target, begun = self.path(stage, key), time.perf_counter()
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{key}.tmp*"):
            shutil.rmtree(left)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}.tmp"))
        try:
            build(scratch)
            files: dict[str, dict[str, Any]] = {
                str(f.relative_to(scratch)): {"bytes": f.stat().st_size, "sha256": _sha256(f)}
                for f in sorted(scratch.rglob("*"))
                if f.is_file()
            }
            write_json(scratch / MANIFEST, {"stage": stage, "key": key, "files": files})
            os.chmod(scratch, 0o755)
            if (
                target.exists()
            ):  # a folder without a manifest: left by hand or by a crash of the file system
                shutil.rmtree(target)
            os.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        entry = {
            "stage": stage,
            "key": key,
            "what": what,
            "seconds": round(time.perf_counter() - begun, 4),
        }
        self._note(
            entry
            | {
                "bytes": sum(f["bytes"] for f in files.values()),
                "about": self.about,
                "process": os.getpid(),
            }
        )

    def _note(self, entry: dict[str, Any]) -> None:
        """Add a line to the log of what was made: one write, so that lines of several processes do not mix."""
        with (self.root / BUILT).open("ab", buffering=0) as file:
            file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")

    def built(self) -> list[dict[str, Any]]:
        """What was ever made here, by any process: stage, key, what, seconds, bytes, process. Torn lines are left out."""
        file, entries = self.root / BUILT, []
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries
