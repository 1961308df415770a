"""One GPU per job: processes of one machine that run at the same time take different ones."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from luq.models.devices import device_count, require

LOCKS = Path(tempfile.gettempdir()) / f"luq-devices-{os.getuid()}"


@contextmanager
def free(device: str) -> Iterator[str]:
    """The device that a job shall use.

    `auto` on a machine with several GPUs: the first that no other job holds.

    A GPU is held by a file lock, so that a killed job gives it back. With more jobs than GPUs the
    last ones share the first. CUDA_VISIBLE_DEVICES, as Slurm sets it, is respected: only what it
    shows is counted.

    Raises:
        ConfigError: this machine does not have it.
    """
    require(device)
    count = device_count()
    if device != "auto" or count < 2:
        yield device
        return
    LOCKS.mkdir(exist_ok=True)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for index in range(count):
        name = visible[index] if len(visible) == count else str(index)
        lock = FileLock(LOCKS / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            yield f"cuda:{index}"
        finally:
            lock.release()
        return
    yield "cuda:0"
