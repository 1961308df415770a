"""What a worker of dask does: it makes pieces of a sweep's artefacts, one after another.

A worker is a process with one thread for pieces. It holds one model, and one GPU for its whole
life.
"""

import os
import pickle
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from distributed.diagnostics.plugin import WorkerPlugin

from luq import __version__
from luq.quantization.artefacts import PackedLayer, end_walk
from luq.store.store import Store
from pipelines import devices
from pipelines.conf_folder import allow_modules
from pipelines.execute import HOLDINGS
from pipelines.pieces import AnyArtefact
from pipelines.version import git_sha


@dataclass(frozen=True)
class Order:
    """A piece to be made, as it travels.

    Its artefacts are pickled by themselves: they may name classes of the user's folder of configs,
    which has to be on the path of modules first.
    """

    model: str  # its digest, for the store's journal
    store: Path
    own_configs: Path | None
    artefacts: bytes

    @classmethod
    def of(
        cls, artefacts: list[AnyArtefact], model: str, store: Path, own_configs: Path | None
    ) -> "Order":
        """The order to make some artefacts.

        Args:
            artefacts: in the order in which they are to be made.
            model: the digest of their model.
            store: the folder where they go; its path is the same on all machines.
            own_configs: the user's folder of configs, if there is one.
        """
        return cls(model, store, own_configs, pickle.dumps(artefacts))


class Filled(NamedTuple):
    """What became of an order."""

    seconds: float
    failures: dict[str, Exception]  # of artefacts that could not be made, by their label


_AT_WORK = Lock()  # of a worker with several threads, too, one makes pieces: it holds one model


def fill(order: Order, *after: Filled) -> Filled:
    """Make a piece; what rests on something that could not be made is left, the rest is made.

    Args:
        order: what to make.
        after: what became of the pieces before it.
    """
    with _AT_WORK:
        return _filled(order, after)


def _filled(order: Order, after: Sequence[Filled]) -> Filled:
    begin = time.perf_counter()
    allow_modules(order.own_configs)
    artefacts: list[AnyArtefact] = pickle.loads(order.artefacts)
    store = _store(order.store)
    store.about = order.model
    failures: dict[str, Exception] = {}
    for filled in after:
        failures |= filled.failures
    if not any(isinstance(artefact, PackedLayer) for artefact in artefacts):
        end_walk(store.tools)  # a model that answers has the memory for itself
    for artefact in artefacts:
        broken = [need.label for need in artefact.needs() if need.label in failures]
        if broken:
            failures[artefact.label] = failures[broken[0]]
            continue
        try:
            if not store.has(artefact):
                store.get(artefact)
        except Exception as error:  # noqa: BLE001  # it is said where the plans are known
            failures[artefact.label] = error
    return Filled(time.perf_counter() - begin, failures)


@cache
def _store(root: Path) -> Store:
    """One for each folder: what was compared with its manifest is not compared again."""
    return Store(root, holdings=HOLDINGS)


class Sight(NamedTuple):
    """What a worker is and sees."""

    version: str
    commit: str | None
    sees_file: bool


def look(file: Path) -> Sight:
    """This worker's version of LUQ, and whether it sees a file."""
    return Sight(__version__, git_sha(), file.exists())


class Gpu(WorkerPlugin):
    """Gives each worker of a machine a GPU of its own, as long as there are enough."""

    name = "luq-gpu"

    def setup(self, worker: object) -> None:
        """Take a GPU, and hide the others from whatever is loaded later."""
        self._held = ExitStack()
        device = self._held.enter_context(devices.free("auto"))
        kind, _, index = device.partition(":")
        if kind == "cuda":
            visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible_gpus.split(",") if visible_gpus else []
            os.environ["CUDA_VISIBLE_DEVICES"] = names[int(index)] if names else index

    def teardown(self, worker: object) -> None:
        """Give it back."""
        self._held.close()
