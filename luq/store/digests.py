"""Digests of files and of their parts, each computed once: remembered by what changes when a file
is written.

That is its path, device, inode, size and times, as git has it in its index. The memory is a file of
JSON lines in the user's cache folder and not beside the outputs: `luq status` and `--plan` write
nothing there and may be asked about the outputs of others, and a checkpoint serves many outputs.
Where no cache can be written, each process digests a file once.

Lines are added in one write each; what cannot be used is left out, and a memory that is mostly
outdated is replaced whole. Who is to prove bytes has them read anew.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from luq.errors import DataError

T = TypeVar("T")

# A file changed within this many seconds before it is digested could be changed again within the
# resolution of its time stamp, and look the same: such a digest is not remembered.
SETTLED_SECONDS = 2.0
# Smaller files are remembered by the process alone: to digest one takes less than its line.
LEAST_BYTES = 65_536
SPARE_LINES = 1000  # outdated lines that the memory may hold beside as many as are in use
MOST_VALUES = 256  # files of which a process keeps what was read
SHA256 = re.compile(r"[0-9a-f]{64}")
WHOLE = ""  # stands for a whole file where others have the name of a part
# What lines call the state of a file. Earlier versions know whole files alone: they must not take
# the digest of a part for one.
FILE = "file"
FILE_OF_PART = "file of part"
PART = "part"


class FileState(NamedTuple):
    """What changes when a file is written or replaced."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_settled(self) -> bool:
        """Whether a change of the file's content, from now on, would be seen in its state."""
        changed = max(self.mtime_ns, self.ctime_ns) / 1e9  # seconds since 1970
        return time.time() - changed > SETTLED_SECONDS


class Digested(NamedTuple):
    """What a digest is of: a file in a state, and which part of it."""

    state: FileState
    part: str = WHOLE


def state_of(file: Path) -> FileState:
    """The state of a file; an OSError if there is none."""
    status = file.stat()
    return FileState(
        str(file.resolve()),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


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
def _remembered(memory: Path | None) -> dict[Digested, str]:
    """What this process and (where there is a memory) earlier ones know."""
    digests: dict[Digested, str] = {}
    if memory is None:
        return digests
    try:
        lines = memory.read_bytes().splitlines()
    except OSError:
        return digests
    newest: dict[str, FileState] = {}  # by path: older states of a file never come back
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            digested, sha256 = _entry(line)
            digests[digested] = sha256
            newest[digested.state.path] = digested.state
    in_use: dict[Digested, str] = {}
    for digested, sha256 in digests.items():
        if newest[digested.state.path] == digested.state:
            in_use[digested] = sha256
    if len(lines) > 2 * len(in_use) + SPARE_LINES:
        digests = in_use
        _rewrite(memory, digests)
    return digests


def _entry(line: bytes) -> tuple[Digested, str]:
    """A line of the memory; a ValueError, TypeError or KeyError if it is none."""
    content = json.loads(line)
    if not isinstance(content, dict):
        raise TypeError("no table")
    part = content.get(PART, WHOLE)
    path, *numbers = content[FILE if part == WHOLE else FILE_OF_PART]
    sha256 = content["sha256"]
    are_names = isinstance(path, str) and isinstance(part, str)
    are_numbers = all(type(number) is int and number >= 0 for number in numbers)
    if not (are_names and are_numbers and SHA256.fullmatch(sha256)):
        raise ValueError("no state of a file and its sha256")
    return Digested(FileState(path, *numbers), part), sha256


def _line(digested: Digested, sha256: str) -> bytes:
    state = list(digested.state)
    content: dict[str, Any] = {FILE: state}
    if digested.part != WHOLE:
        content = {FILE_OF_PART: state, PART: digested.part}
    content["sha256"] = sha256
    return (json.dumps(content) + "\n").encode()


def _rewrite(memory: Path, digests: dict[Digested, str]) -> None:
    """Replace the memory. A line that another process adds meanwhile may be lost, and is no loss
    but of time.
    """
    scratch = memory.with_name(f".{memory.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        lines = [_line(digested, sha256) for digested, sha256 in digests.items()]
        scratch.write_bytes(b"".join(lines))
        os.replace(scratch, memory)


def _remember(memory: Path, digested: Digested, sha256: str) -> None:
    try:
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with memory.open("ab", buffering=0) as handle:
            handle.write(_line(digested, sha256))
    except OSError:
        return  # a cache that cannot be written costs time, nothing else


def read_once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """A function of a file that reads it once while it does not change, in this process.

    Its value is handed out several times: nobody may change it. What cannot be read is read again.
    """
    values: dict[tuple[Path, FileState], T] = {}  # a value may hold the path as it was given

    @wraps(read)
    def value(file: Path) -> T:
        try:
            state = state_of(file)
        except OSError:
            return read(file)  # which says what is wrong with it
        if (file, state) in values:
            return values[file, state]
        content = read(file)
        if state.is_settled:
            if len(values) >= MOST_VALUES:
                values.clear()
            values[file, state] = content
        return content

    return value


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content, read now."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_digest(file: Path, anew: bool = False) -> tuple[int, str]:
    """A file's size and the sha256 of all its bytes, which are read once while it does not change.

    Args:
        file: whose bytes count.
        anew: whether they are read now, whatever is remembered.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return state_of(file).size, _digest(file, WHOLE, lambda: sha256_of(file), anew)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error})") from error


def part_digest(file: Path, part: str, sha256: Callable[[], str]) -> str:
    """The sha256 of a part of a file, which is computed once while the file does not change.

    Args:
        file: whose part it is.
        part: its name there.
        sha256: computes it from what the file holds now.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return _digest(file, part, sha256)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error})") from error


def _digest(file: Path, part: str, compute: Callable[[], str], anew: bool = False) -> str:
    """The sha256 of a file or of a part of it, remembered or computed."""
    digested = Digested(state_of(file), part)
    memory = _memory_file()
    digests = _remembered(memory)
    if digested in digests and not anew:
        return digests[digested]
    sha256 = compute()
    is_known = digests.get(digested) == sha256
    # else it may have been written while it was read
    if not is_known and digested.state.is_settled and state_of(file) == digested.state:
        digests[digested] = sha256
        if memory is not None and digested.state.size >= LEAST_BYTES:
            _remember(memory, digested, sha256)
    return sha256
