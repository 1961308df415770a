"""A sweep's artefacts made by several workers: `luq sweep NAME --workers N`, `--scheduler ADDRESS`.

The workers are dask's. This process knows the plans: it hands out pieces of work (`pieces.py`) as
soon as they are known, each once, and writes a run's record when all of it is made. A plan can rest
on what has to be made first; its run's pieces are then handed out in several rounds.

What is made lies in the store, and only words travel: a worker, the scheduler or this process can
be killed at any moment, and the same command goes on.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luq.calibration.artefacts import check_shared
from luq.errors import ConfigError, LuqError, StoreError
from luq.store.store import Store
from pipelines import console
from pipelines.execute import Workbench, check_before, workbench
from pipelines.pieces import AnyArtefact, Piece, Pieces, first_needed, needed
from pipelines.run import record_failure
from pipelines.screen import styled
from pipelines.sweep import Job, Sweep
from pipelines.units import duration

EXTRA = "pip install 'luq[cluster]'"
ANSWER_SECONDS = 10  # until a scheduler that does not answer is none
LATENCY_SECONDS = 0.5  # until a file that another machine wrote is seen on this one
LOST = ("cancelled", "lost")  # of a future: the scheduler has gone
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_with(sweep: Sweep, workers: int | None, scheduler: str | None) -> bool:
    """Run what is missing or failed of a sweep with workers; true if all is done in the end.

    Args:
        sweep: the runs.
        workers: how many, on this machine; or None.
        scheduler: the address of theirs, if they are there already; or None.

    Raises:
        ConfigError: there are no such workers, or they cannot do it.
        StoreError: the scheduler is gone.
    """

    def crew(jobs: Sequence[Job]) -> None:
        outputs = {job.outputs.resolve() for job in jobs}
        if len(outputs) > 1:
            raise ConfigError("--workers and --scheduler want one folder of outputs for all runs")
        with local_workers(workers or 1) if scheduler is None else workers_at(scheduler) as client:
            group = Crew(client, sweep, outputs.pop())
            group.prepare()
            group.work(jobs)

    return sweep.run(crew)


@contextmanager
def local_workers(count: int) -> Iterator[Any]:
    """A client of so many workers on this machine, which end with it.

    Raises:
        ConfigError: dask is not installed.
    """
    dask, distributed = _dask()
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    environment = {f"distributed.nanny.pre-spawn-environ.{name}": threads for name in THREADS}
    with (
        dask.config.set(environment),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,  # a model's size is known better here than by a share of the memory
            dashboard_address="127.0.0.1:0",
            silence_logs="ERROR",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextmanager
def workers_at(address: str) -> Iterator[Any]:
    """A client of a scheduler that somebody else has started, on this machine or on a cluster.

    Raises:
        ConfigError: dask is not installed, or nothing answers there.
    """
    _, distributed = _dask()
    try:
        client = distributed.Client(address, timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {address}: no scheduler of dask answers there ({error}). Start one "
            "(dask scheduler), or give --workers N"
        ) from error
    with client:
        yield client


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ConfigError(f"--workers and --scheduler need dask: {EXTRA}") from error
    # Tracebacks of workers that end, and of a scheduler that is gone: what they mean is said here.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return dask, distributed


@dataclass(eq=False)
class Underway:
    """A run whose artefacts are being made."""

    job: Job
    bench: Workbench
    lock: FileLock
    is_checked: bool = False
    waits_for: set[str] = field(default_factory=set)  # pieces, by name


class Crew:
    """The workers, and the runs of one sweep that they work for.

    Args:
        client: of dask.
        sweep: whose runs they are.
        outputs: of all runs; all workers see this folder under this path.
    """

    def __init__(self, client: Any, sweep: Sweep, outputs: Path) -> None:
        _, self._distributed = _dask()
        self.client = client
        self.sweep = sweep
        self.store = Store(outputs / "store")
        self._pieces = Pieces(self.store)
        self._handed_out: dict[str, Piece] = {}  # by the piece's name
        self._futures: dict[str, Any] = {}  # the same
        self._finished: set[str] = set()  # the same
        self._failures: dict[str, Exception] = {}  # by the artefact's label
        self._events = self._distributed.as_completed(loop=client.loop)

    def prepare(self) -> None:
        """Wait for the first worker; say who works, and that all of them can.

        Raises:
            ConfigError: a worker does not see the outputs, has several threads, or is another
                version.
        """
        from pipelines.worker import Gpu, look

        if not self._threads():
            console.out.print("  the scheduler has no workers yet: waiting for the first")
            self.client.wait_for_workers(1)
        for address, threads in self._threads().items():
            if threads != 1:
                raise ConfigError(
                    f"the worker at {address} has {threads} threads, and holds one "
                    "model: start workers of one thread (dask worker --nthreads 1)"
                )

        self.client.register_plugin(Gpu())
        probe = self.store.root / ".locks" / f"seen-{uuid.uuid4().hex}"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        try:
            sights = self.client.run(look, probe)
            local_sight = look(probe)
        finally:
            probe.unlink()
        for address, sight in sights.items():
            if not sight.sees_file:
                raise ConfigError(
                    f"the worker at {address} does not see {self.store.root.parent}: all machines "
                    "need the outputs under the same path"
                )
            if sight != local_sight:
                raise ConfigError(
                    f"the worker at {address} has another version of luq "
                    f"({sight.version}, {sight.commit or 'no checkout'}): install the same there"
                )
        has_dashboard = find_spec("bokeh") is not None
        dashboard = f", dashboard {self.client.dashboard_link}" if has_dashboard else ""
        console.out.print(f"  workers: {len(sights)}{dashboard}")

    def _threads(self) -> dict[str, int]:
        """How many threads each worker has, by address."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: worker["nthreads"] for address, worker in workers.items()}

    def work(self, jobs: Sequence[Job]) -> None:
        """Hand out pieces as they become known, until all runs have a record or a failure.

        Raises:
            StoreError: the scheduler is gone.
        """
        underway = [run for job in jobs if (run := self._begun(job)) is not None]
        self._hand_out(underway)
        for future in self._events:
            self._note(future)
            free = [run for run in underway if future.key in run.waits_for]
            for run in free:
                run.waits_for.discard(future.key)
            self._hand_out([run for run in free if not run.waits_for])

    def _begun(self, job: Job) -> Underway | None:
        """A run with its lock, after its checks; None if others are at it, or if it cannot be."""
        lock = self.store.lock(f"run-{job.key}", "")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        try:
            bench = workbench(job.config)
            check_before(bench)
        except (LuqError, OSError):
            lock.release()
            self.sweep.launch([job], wait=False)  # fails the same way, and writes it down
            return None
        return Underway(job, bench, lock)

    def _hand_out(self, runs: Sequence[Underway]) -> None:
        """Hand out what is known by now of runs that wait for nothing; records of the others.

        The pieces of all of them are made together, so that walks are cut where plans part.
        """
        next_artefacts: list[tuple[Underway, list[AnyArtefact]]] = []
        for run in runs:
            try:
                next_artefacts.append((run, self._next(run)))
            except Exception as error:  # noqa: BLE001  # the others go on
                self._fail(run, error)
        by_model: dict[str, list[AnyArtefact]] = {}
        for run, artefacts in next_artefacts:
            by_model.setdefault(run.bench.store.about, []).extend(artefacts)
        for model, artefacts in by_model.items():
            self._submit(artefacts, model)
        for run, artefacts in next_artefacts:
            failed = [item.label for item in artefacts if item.label in self._failures]
            run.waits_for = self._pieces.of(artefacts) - self._finished
            if failed:
                self._fail(run, self._failures[failed[0]])
            elif not run.waits_for:
                run.lock.release()
                self.sweep.launch([run.job], wait=False)

    def _next(self, run: Underway) -> list[AnyArtefact]:
        """What a run needs and is not made yet, as far as that is known; empty if all is made."""
        graph, store = run.bench.graph, run.bench.store
        if not run.is_checked:
            missing = self._pieces.missing(first_needed(graph))
            if missing:
                return missing
            for shared in graph.shared_questions():
                check_shared(store.get(shared))
            run.is_checked = True
        while True:
            needs = needed(graph, store)
            missing = self._pieces.missing(needs.artefacts)
            if missing or needs.is_all:
                return missing
            time.sleep(LATENCY_SECONDS)  # another machine wrote it, and it is not seen here yet

    def _submit(self, artefacts: Sequence[AnyArtefact], model: str) -> None:
        """Give the workers the pieces of one model that they have not got yet."""
        from pipelines.worker import Order, fill

        for piece in self._pieces.add(artefacts):
            order = Order.of(piece.artefacts, model, self.store.root, self.sweep.own)
            after = [self._futures[name] for name in sorted(piece.after)]
            future = self.client.submit(fill, order, *after, key=piece.name)
            self._futures[piece.name] = future
            self._handed_out[piece.name] = piece
            self._events.add(future)

    def _note(self, future: Any) -> None:
        """Say that a piece is finished; remember what could not be made."""
        if future.status in LOST:
            raise StoreError(
                "the scheduler is gone: what was made is kept, and the same command goes on"
            )
        self._finished.add(future.key)
        piece = self._handed_out[future.key]
        if future.status == "error":  # its workers died
            error = future.exception()
            self._failures |= {artefact.label: error for artefact in piece.artefacts}
            outcome = "failed"
        else:
            filled = future.result()
            self._failures |= filled.failures
            outcome = "failed" if filled.failures else duration(filled.seconds)
        count = f"  {len(self._finished)} of {len(self._futures)}  "
        console.out.print(styled((count, "dim"), piece.description, (f"  {outcome}", "dim")))

    def _fail(self, run: Underway, error: Exception) -> None:
        """Show and write down why a run has no record."""
        run.lock.release()
        run.waits_for.clear()
        if isinstance(error, self._distributed.KilledWorker):
            error = StoreError(
                f"the workers that made {error.task} died, one after another: they may lack memory"
            )
        record_failure(run.job.config, run.job.name, error)
        console.show_title(run.job.name)
        console.fail(f"{type(error).__name__}: {error}")
