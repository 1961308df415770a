"""Writes that outlive a loss of power: on the disk before the rename that makes them count.

A rename is atomic for processes, but a file system may put it on the disk before the content of
what was renamed: after a loss of power the name then stands for an empty file. So files and folders
are synced first, and the folder that holds the new name afterwards. This holds on local file
systems that honour fsync (ext4, xfs, btrfs, APFS); on network file systems as far as the server
honours it.
"""

import contextlib
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk.

    A file system that cannot sync folders is left as it is.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until all that a folder holds is on the disk."""
    for path in folder.rglob("*"):
        if path.is_dir() or (path.is_file() and not path.is_symlink()):
            sync(path)
    sync(folder)


def replace(scratch: Path, target: Path) -> None:
    """Rename a synced file or folder into place, and wait until the name is on the disk."""
    os.replace(scratch, target)
    sync(target.parent)
