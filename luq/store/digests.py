"""Digests of whole files, each computed once: remembered by path, size, times and inode.

The memory is a file of JSON lines in the user's cache folder; where none can be written, files are
digested again by every process. Lines are added in one write each and never changed.
"""

import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from luq.errors import DataError

# A file changed within this many seconds before it is digested could be changed again within the
# resolution of its time stamp, and look the same: such a digest is not remembered.
SETTLED_SECONDS = 2.0


class FileState(NamedTuple):
    """What changes when a file is written or replaced."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def cache_folder() -> Path | None:
    """The user's cache folder for LUQ; None where there is no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "luq"
    except RuntimeError:
        return None


def _memory_file() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "digests.jsonl"


@lru_cache(maxsize=4)
def _remembered(file: Path | None) -> dict[FileState, str]:
    """What this process and (where there is a file) earlier ones know.

    Lines that cannot be read are left out.
    """
    digests: dict[FileState, str] = {}
    if file is None:
        return digests
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return digests
    for line in lines:
        try:
            entry = json.loads(line)
            digests[FileState(*entry["file"])] = str(entry["sha256"])
        except (ValueError, TypeError, KeyError):
            continue
    return digests


def _remember(memory: Path, state: FileState, sha256: str) -> None:
    line = json.dumps({"file": list(state), "sha256": sha256}) + "\n"
    try:
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with memory.open("ab", buffering=0) as handle:
            handle.write(line.encode())
    except OSError:
        return  # a cache that cannot be written costs time, nothing else


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content, read now."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_digest(file: Path) -> tuple[int, str]:
    """A file's size and the sha256 of all its bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        status = file.stat()
        state = FileState(
            str(file.resolve()),
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )
        memory = _memory_file()
        known = _remembered(memory)
        if state in known:
            return state.size, known[state]
        sha256 = sha256_of(file)
        age_seconds = time.time() - max(state.mtime_ns, state.ctime_ns) / 1e9
        if age_seconds > SETTLED_SECONDS:
            known[state] = sha256
            if memory is not None:
                _remember(memory, state, sha256)
        return state.size, sha256
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error})") from error
