"""Artefacts on disk: ROOT/STAGE/KEY/, keyed by content. Existence means completeness.

An artefact is written under a temporary name, its manifest (class, version, what it needs, package
versions, file -> bytes and sha256) last, synced to the disk, then renamed: a reader never sees half
of one, whatever is killed, and a loss of power leaves none either. A file lock keeps two processes
from making the same one. Knows nothing of models.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from luq.config.building import build
from luq.errors import ConfigError, DataError, StoreError
from luq.store import durable
from luq.store.artefact import Artefact, Holdings, Progress, Tools
from luq.store.digests import file_digest, sha256_of
from luq.store.keys import LENGTH
from luq.store.sealed import parse_table, read_table, sealed
from luq.store.versions import versions

log = logging.getLogger(__name__)
T = TypeVar("T")
MANIFEST = "manifest.json"
JOURNAL = "built.jsonl"
# KEY, or what stands beside it while it is made: .KEY.tmpXXXX, .KEY.partial.jsonl. Other folders in
# the root, such as the cache of `datasets`, have other names.
ENTRY = re.compile(rf"([0-9a-f]{{{LENGTH}}})|\.([0-9a-f]{{{LENGTH}}})\..+")


class NotMade(Exception):
    """An artefact that is asked for without being made is not in the store."""

    def __init__(self, artefact: Artefact[Any]):
        super().__init__(artefact.description)
        self.artefact = artefact


@dataclass(frozen=True)
class Built:
    """One line of the journal: what was made, in how many seconds, how large, for which model."""

    stage: str
    key: str
    what: str
    seconds: float
    bytes: int
    about: str = ""
    process: int = 0


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name in the same folder, then rename it over `path`.

    The temporary name is always the same, so that a killed process leaves nothing that the next one
    does not use up: whoever writes a file that others may write too holds a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    durable.sync(scratch)
    durable.replace(scratch, path)


class Store:
    """Artefact folders under one root.

    `made` and `found` list the labels of what this process computed and reused, in order.
    """

    def __init__(
        self, root: Path, progress: Progress | None = None, holdings: Holdings | None = None
    ):
        self.root = root
        # Empty files that stay: to delete one while another process waits for it is a race.
        self._locks = root / ".locks"
        self.tools = Tools(self, progress, holdings)
        self.about = ""  # what is worked on (a model's digest), for the journal
        self.made: list[str] = []
        self.found: list[str] = []
        self._asked: dict[str, Artefact[Any]] = {}
        self._verified: set[str] = set()

    def folder(self, artefact: Artefact[Any]) -> Path:
        """Where an artefact is, or will be."""
        return self.path(artefact.stage, artefact.key)

    def has(self, artefact: Artefact[Any]) -> bool:
        """Whether an artefact is there, complete."""
        return (self.folder(artefact) / MANIFEST).exists()

    def get(self, artefact: Artefact[T]) -> T:
        """The value of an artefact, which is made if it is not there yet.

        Raises:
            StoreError: a file of it is damaged or missing.
        """
        if not self.has(artefact):
            with self.lock(f"{artefact.stage}-{artefact.key}", artefact.description):
                if not self.has(artefact):
                    self._build(artefact)
                    self.made.append(artefact.label)
                    self._verified.add(artefact.label)
        return artefact.read(self._checked(artefact))

    def peek(self, artefact: Artefact[T]) -> T:
        """The value of an artefact that is there; `NotMade` if it is not."""
        if not self.has(artefact):
            raise NotMade(artefact)
        return artefact.read(self._checked(artefact))

    def resumable(self, artefact: Artefact[Any], name: str) -> Path:
        """A file in which the making of an artefact keeps what a killed process should find again.

        It is removed when the artefact is made.
        """
        return self.root / artefact.stage / f".{artefact.key}.{name}"

    def used(self) -> list[str]:
        """STAGE/KEY of what was asked for, and of all that it needs.

        The same whether it was made or found: what is found does not ask for what it needs.
        """
        reached: set[str] = set()
        waiting = list(self._asked.values())
        while waiting:
            artefact = waiting.pop()
            if artefact.label not in reached:
                reached.add(artefact.label)
                waiting += artefact.needs()
        return sorted(reached)

    def used_versions(self) -> dict[str, str]:
        """Package -> the version that made what was used; several are joined."""
        by_package: dict[str, set[str]] = {}
        for label in self.used():
            stage, _, key = label.partition("/")
            if not (self.path(stage, key) / MANIFEST).exists():  # it was cleaned away
                continue
            for package, version in self.manifest(stage, key)["versions"].items():
                by_package.setdefault(package, set()).add(version)
        return {package: ", ".join(sorted(all_)) for package, all_ in sorted(by_package.items())}

    def _checked(self, artefact: Artefact[Any]) -> Path:
        """The artefact's folder, after its files were compared with its manifest: once, and by
        digests that are remembered while the files do not change.
        """
        self._asked.setdefault(artefact.label, artefact)
        if artefact.label not in self._verified:
            self._compared(artefact.stage, artefact.key, lambda file: file_digest(file)[1])
            self._verified.add(artefact.label)
            # A process that was killed between the rename and its tidying left them: beside what
            # is complete nobody is at work.
            for remains in self.remains(artefact.stage, artefact.key):
                with contextlib.suppress(OSError):
                    _delete(remains)
        if artefact.label not in self.made and artefact.label not in self.found:
            self.found.append(artefact.label)
        return self.folder(artefact)

    def path(self, stage: str, key: str) -> Path:
        """The folder of a stage's artefact."""
        return self.root / stage / key

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """The manifest of an artefact; a StoreError if it cannot be read."""
        folder = self.path(stage, key)
        try:
            content = read_table(folder / MANIFEST)
            if not isinstance(content["files"], dict):
                raise ValueError("it lists no files")
            for name, entry in content["files"].items():
                if not {"bytes", "sha256"} <= set(entry):
                    raise ValueError(f"it lacks bytes and sha256 of {name}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{folder / MANIFEST} cannot be read ({error}): delete {folder} and run again"
            raise StoreError(message) from error
        return content

    def verify(self, stage: str, key: str) -> Path:
        """The artefact's folder, after its files were compared with its manifest. Reads all bytes.

        Raises:
            StoreError: a file of it is damaged or missing.
        """
        return self._compared(stage, key, sha256_of)

    def _compared(self, stage: str, key: str, sha256: Callable[[Path], str]) -> Path:
        """The artefact's folder, after its files were compared with its manifest."""
        folder = self.path(stage, key)
        for name, entry in self.manifest(stage, key)["files"].items():
            file = folder / name
            if not file.exists():
                raise StoreError(f"{file} is missing: delete {folder} and run again")
            try:
                is_whole = file.stat().st_size == entry["bytes"]
                is_whole = is_whole and sha256(file) == entry["sha256"]
            except (OSError, DataError) as error:
                raise StoreError(f"{file} cannot be read ({error})") from error
            if not is_whole:
                message = f"{file} does not match its manifest: delete {folder} and run again"
                raise StoreError(message)
        return folder

    def labels(self) -> Iterator[tuple[str, str]]:
        """(stage, key) of every complete artefact."""
        for manifest in sorted(self.root.glob(f"*/*/{MANIFEST}")):
            if not manifest.parent.name.startswith("."):
                yield manifest.parent.parent.name, manifest.parent.name

    def remove(self, stage: str, key: str) -> bool:
        """Delete an artefact: its manifest first, so that nobody takes the rest for whole.

        Returns:
            False if it was left alone, since a process is making it.
        """
        try:
            with self.lock(f"{stage}-{key}", "").acquire(timeout=0):
                folder = self.path(stage, key)
                (folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            return False
        return True

    def leftovers(self) -> Iterator[tuple[str, str]]:
        """(stage, key) of what is no artefact yet: half made by a process that was killed, or that
        is at work."""
        names: set[tuple[str, str]] = set()
        for entry in self.root.glob("*/*"):
            match = ENTRY.fullmatch(entry.name)
            if match and not entry.parent.name.startswith("."):
                names.add((entry.parent.name, match[1] or match[2]))
        for stage, key in sorted(names):
            if self.remains(stage, key):
                yield stage, key

    def remains(self, stage: str, key: str) -> list[Path]:
        """The files and folders of a leftover. What is complete is none of them."""
        folder = self.path(stage, key)
        remains = sorted(folder.parent.glob(f".{key}.*"))
        if folder.exists() and not (folder / MANIFEST).exists():
            remains.append(folder)
        return remains

    def remove_leftover(self, stage: str, key: str) -> bool:
        """Delete what a killed process left; false if a process is at work on it."""
        try:
            with self.lock(f"{stage}-{key}", "").acquire(timeout=0):
                for path in self.remains(stage, key):
                    _delete(path)
        except Timeout:
            return False
        return True

    def lock(self, name: str, what: str) -> FileLock:
        """The lock of a name.

        If another process holds it, a line says that we wait, and for what (if that is said).
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            if what:
                log.warning("waiting for another process that makes %s", what)
        return lock

    def is_locked(self, name: str) -> bool:
        """Whether a process holds the lock of a name. Writes nothing.

        In a folder that this user cannot write nobody is seen.
        """
        file = self._locks / f"{name}.lock"
        if not file.exists():
            return False
        try:
            with FileLock(file).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def busy(self, prefix: str) -> list[str]:
        """The lock files of names that begin so and that a process holds."""
        names: list[str] = []
        for file in sorted(self._locks.glob(f"{prefix}*.lock")):
            try:
                with FileLock(file).acquire(timeout=0):
                    continue
            except Timeout:
                names.append(file.name)
        return names

    def _build(self, artefact: Artefact[Any]) -> None:
        """Under the lock: remove what an earlier process left half done, then make the artefact."""
        target = self.folder(artefact)
        begin = time.perf_counter()
        target.parent.mkdir(parents=True, exist_ok=True)
        for remains in target.parent.glob(f".{artefact.key}.tmp*"):
            shutil.rmtree(remains)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{artefact.key}.tmp"))
        try:
            artefact.make(scratch, self.tools)
            files = _listing(scratch)
            write_json(scratch / MANIFEST, sealed(_manifest(artefact, files)))
            os.chmod(scratch, 0o755)
            durable.sync_tree(scratch)
            if target.exists():  # without a manifest: left by hand or by a crash of the file system
                shutil.rmtree(target)
            durable.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for remains in self.remains(artefact.stage, artefact.key):
            _delete(remains)
        entry = {
            "stage": artefact.stage,
            "key": artefact.key,
            "what": artefact.description,
            "seconds": round(time.perf_counter() - begin, 4),
            "bytes": sum(int(file["bytes"]) for file in files.values()),
            "about": self.about,
            "process": os.getpid(),
        }
        # One write, so that the lines of several processes do not mix.
        with (self.root / JOURNAL).open("ab", buffering=0) as journal:
            journal.write(json.dumps(entry, sort_keys=True).encode() + b"\n")

    def built(self) -> list[Built]:
        """What was ever made here, by any process. Lines that are torn or damaged are left out."""
        file = self.root / JOURNAL
        entries: list[Built] = []
        lines = file.read_bytes().splitlines() if file.exists() else []
        for line in lines:
            try:
                entries.append(build(Built, parse_table(line), strict=False))
            except (ValueError, ConfigError):
                continue
        return entries


def _delete(path: Path) -> None:
    """Delete a file or a folder; what cannot be deleted stays, and is a leftover."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _listing(folder: Path) -> dict[str, dict[str, int | str]]:
    """Relative name -> bytes and sha256 of every file."""
    files: dict[str, dict[str, int | str]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            files[name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    return files


def _manifest(artefact: Artefact[Any], files: dict[str, dict[str, int | str]]) -> dict[str, Any]:
    return {
        "stage": artefact.stage,
        "key": artefact.key,
        "identity": artefact.identity(),
        "needs": [need.label for need in artefact.needs()],
        "versions": versions(),
        "files": files,
    }
