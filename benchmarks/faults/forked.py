"""Acts in forked processes: each begins in the same state, and may end in any way."""

import importlib
import os
import pkgutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import analysis
import luq as luq_package
import pipelines
from benchmarks.faults.switch import Switch
from luq.errors import LuqError
from pipelines import console
from pipelines.cli import main

Act = Callable[[], int]
SECONDS = 60  # after which an act counts as hanging
RAISED = 70  # exit code of an act that raised what nobody caught
# Of other packages, what is imported when it is needed and takes long.
IMPORTED_LATE = (
    "fontTools.subset",
    "lm_eval.evaluator",
    "lm_eval.tasks",
    "sklearn.cluster",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "vl_convert",
)
NOT_IMPORTED = ("__main__", ".gpu", ".triton_kernels")  # programs, and what needs triton
WIDTH = "200"  # of the terminal: names in messages are not broken


@dataclass(frozen=True)
class Done:
    """How an act ended: its exit code, or the signal that ended it."""

    code: int
    signal: int
    output: str
    changes: int  # that the switch counted; 0 after a signal

    @property
    def was_killed(self) -> bool:
        """Whether the switch ended it."""
        return self.signal == signal.SIGKILL

    @property
    def end(self) -> str:
        """How it ended, and the end of what it said."""
        ending = f"signal {self.signal}" if self.signal else f"exit code {self.code}"
        return f"{ending}: {' '.join(self.output.split())[-300:]}"


class Running:
    """An act in a process of its own."""

    def __init__(self, act: Act, watched: Path | None = None, kill_at: int = 0):
        """Start it.

        Args:
            act: What to do; returns an exit code.
            watched: The folder below which changes are counted; None: no counting.
            kill_at: The change at which it is killed; 0: none.
        """
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # it outlives this call
        self._receiver, sender = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = os.fork()
        if self._process == 0:
            _child(act, self._output.fileno(), sender, watched, kill_at)
        os.close(sender)

    def wait(self) -> Done:
        """How it ended."""
        _, status = os.waitpid(self._process, 0)
        with os.fdopen(self._receiver, "rb") as receiver:
            os.set_blocking(receiver.fileno(), False)  # a grandchild may hold the other end
            changes = receiver.read() or b"0"
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        self._output.close()
        code = os.waitstatus_to_exitcode(status)
        return Done(max(code, 0), max(-code, 0), output, int(changes))


def run(act: Act, watched: Path | None = None, kill_at: int = 0) -> Done:
    """Do something in a process of its own, and wait for its end."""
    return Running(act, watched, kill_at).wait()


def _child(act: Act, output: int, sender: int, watched: Path | None, kill_at: int) -> None:
    """The life of the forked process."""
    code = RAISED
    switch = Switch()
    try:
        signal.alarm(SECONDS)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["COLUMNS"] = WIDTH
        if watched is not None:
            switch.arm(watched, kill_at)
        code = act()
        switch.disarm()
    except BaseException:  # noqa: BLE001  # whatever it is, the child must end here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(sender, str(switch.count()).encode())
        os._exit(code)


def luq(*arguments: str | Path) -> Act:
    """A `luq` command as an act."""
    words = [str(argument) for argument in arguments]
    return lambda: main(words)


def refused(act: Callable[[], object]) -> int:
    """1 if an act raises an error of ours, which is printed as `luq` does; else 0."""
    try:
        act()
    except LuqError as error:
        console.fail(str(error))
        return 1
    return 0


def must_work(act: Act, watched: Path | None = None) -> Done:
    """Do what a part needs, and count changes; ends the program if that fails."""
    done = run(act, watched)
    if done.code or done.signal:
        raise SystemExit(f"a command fails without any fault, by {done.end}")
    return done


def import_all() -> None:
    """Import all that acts import, so that processes forked later need not."""
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in (luq_package, pipelines, analysis):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                if not module.name.endswith(NOT_IMPORTED):
                    importlib.import_module(module.name)
        for name in IMPORTED_LATE:
            importlib.import_module(name)
    if threading.active_count() > 1:
        raise SystemExit(f"{threading.enumerate()} after the imports: forked processes may hang")
    sys.stderr.write(f"ready after {time.monotonic() - begin:.0f} s\n")
