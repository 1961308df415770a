"""One writer at a time for what does not lie in the store: exported folders, reports."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from luq.errors import StoreError


@contextlib.contextmanager
def sole_writer(target: Path, activity: str) -> Iterator[None]:
    """Keep other processes from writing the same target meanwhile.

    The lock is the file `.NAME.lock` beside the target. It is deleted while it is held: whoever
    opened it before finds that out, and makes a new one. A killed process leaves the file, which
    then locks nothing.

    Args:
        target: A file or folder, which need not be there yet.
        activity: What is done, for the message to whom comes second: "export".

    Raises:
        StoreError: Another process is writing the target, or it is the root of all folders.
        OSError: The lock cannot be written.
    """
    absolute = Path(os.path.abspath(target))
    if not absolute.name:
        raise StoreError(f"{target} cannot be written: give a folder in it")
    absolute.parent.mkdir(parents=True, exist_ok=True)
    file = absolute.with_name(f".{absolute.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"another {activity} is writing {target}: wait until it is finished, or give another "
            "folder"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()
