"""The switch that kills a process at one of its changes to files: switch.c, compiled and loaded."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("switch.c")
VARIABLE = "LUQ_FAULTS_SWITCH"  # where the library is that this process was started with


def is_here() -> bool:
    """Whether this process was started with the switch."""
    return VARIABLE in os.environ


def start_again() -> int:
    """Start this program again with the switch before the C library; returns its exit code."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the campaign needs gcc, which is not installed: install it")
    with tempfile.TemporaryDirectory(prefix="luq-switch-") as folder:
        library = str(Path(folder) / "switch.so")
        command = [compiler, "-O1", "-shared", "-fPIC", str(SOURCE), "-o", library, "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{SOURCE} cannot be compiled: {done.stderr}")
        environment = os.environ | {"LD_PRELOAD": library, VARIABLE: library}
        words = [sys.executable, *sys.orig_argv[1:]]
        return subprocess.run(words, env=environment).returncode


class Switch:
    """The switch of this process; one that does nothing where it was started without."""

    def __init__(self) -> None:
        file = os.environ.get(VARIABLE)
        self._library = ctypes.CDLL(file) if file else None

    def arm(self, folder: Path, change: int) -> None:
        """Count changes below a folder, and kill the process at one of them; 0: at none."""
        if self._library is None:
            raise RuntimeError("this process was started without the switch")
        self._library.switch_arm(os.fsencode(os.path.realpath(folder)), ctypes.c_long(change))

    def count(self) -> int:
        """Changes so far; 0 where it was not armed."""
        return 0 if self._library is None else int(self._library.switch_count())

    def disarm(self) -> None:
        """Count no more."""
        if self._library is not None:
            self._library.switch_disarm()
