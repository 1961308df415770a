"""What a sweep will cost, before anything runs.

Which artefacts its runs need, which of them the store has, and what such artefacts took before.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from luq.errors import LuqError
from luq.planning import allocate
from luq.quantization.artefacts import REFINED
from luq.store.artefact import Artefact
from luq.store.keys import digest
from luq.store.store import NotMade, Store
from luq.tower import planned_parts
from pipelines import console
from pipelines.graph import Graph
from pipelines.sheet import Column, Sheet, text_column
from pipelines.sweep import ImpossibleJob, Job, Sweep, show_status
from pipelines.units import duration, human

T = TypeVar("T")
KINDS = {"calibration": "calibration sets", "profile": "profiles"}


def kind_of(stage: str, description: str) -> str:
    """The kind of work that an artefact is, for people; empty for what costs next to nothing."""
    last_word = description.split()[-1]
    if stage in ("layers", "parts"):
        return f"{stage} {last_word}"
    if stage == "evaluation":
        return f"answers {last_word}"
    return KINDS.get(stage, "")


@dataclass
class Work:
    """Distinct pieces of work by kind, each with whether the store has it.

    `is_bound`: some are only known as an upper bound.
    """

    pieces: dict[str, dict[str, bool]] = field(default_factory=lambda: defaultdict(dict))
    is_bound: bool = False

    def add_run(self, graph: Graph, store: Store) -> None:
        """What a run that is not done needs."""
        if graph.is_calibrated:
            self._add(store, graph.calibration)
        if graph.is_profiled:
            for profile in graph.profiles:
                self._add(store, profile)
        layers = _known(lambda: graph.layers(allocate(graph, store.peek).allocation))
        parts = _known(lambda: planned_parts(graph, store.peek).parts)
        if layers is not None and parts is not None:
            for answers in graph.answers(layers, graph.questions, parts).values():
                self._add(store, answers)
            return
        self.is_bound = True
        for benchmark in graph.config.evaluation.benchmarks:
            self.pieces[f"answers {benchmark}"][graph.key] = False
        for part in graph.uniform_towers if parts is None else parts:
            self._add(store, part)
        if layers is None:
            self._add_every_layer(graph)
        else:
            for layer in layers:
                self._add(store, layer)

    def _add(self, store: Store, artefact: Artefact[Any]) -> None:
        """An artefact and all that it needs, unless the store has it."""
        kind = kind_of(artefact.stage, artefact.description)
        if kind:
            self.pieces[kind][artefact.key] = store.has(artefact)
        for need in artefact.needs():
            need_kind = kind_of(need.stage, need.description)
            if not need_kind or need.key not in self.pieces[need_kind]:
                self._add(store, need)

    def _add_every_layer(self, graph: Graph) -> None:
        """The allocation is not known yet: every layer in every tier."""
        config = graph.config
        exact = config.quantizer.propagation == "exact"
        # With exact propagation a layer depends on the allocation: no other run shares it.
        owner = graph.key if exact else graph.calibration.key
        refined = REFINED if config.quantizer.refine.is_on else ""
        for tier in graph.tiers:
            for layer in range(graph.checkpoint.layers):
                key = digest(owner, tier, graph.tiers[tier], layer)
                self.pieces[f"layers {tier}{refined}"][key] = False


def _known(value: Callable[[], T]) -> T | None:
    """What needs artefacts of the store; None if one of them has not been made yet."""
    try:
        return value()
    except NotMade:
        return None


class Price(NamedTuple):
    """Medians of what such work took before."""

    seconds: float
    bytes: float


def prices(store: Store, models: set[str]) -> dict[str, Price]:
    """Kind of work -> what it took for these models, of all that was ever made here."""
    entries = defaultdict(list)
    for entry in store.built():
        kind = kind_of(entry.stage, entry.what)
        if kind and entry.about in models:
            entries[kind].append(entry)
    return {
        kind: Price(median(e.seconds for e in some), median(e.bytes for e in some))
        for kind, some in entries.items()
    }


def show_plan(sweep: Sweep) -> None:
    """Print the grid with its states, then the work that is left and its cost."""
    work = Work()
    models: set[str] = set()
    stores: dict[Path, Store] = {}  # each compares an artefact with its manifest once
    store: Store | None = None
    for job, found in zip(sweep.jobs, show_status(sweep), strict=True):
        if isinstance(job, ImpossibleJob) or found.record is not None:
            continue
        try:
            graph = graph_of(job)
        except LuqError as error:
            message = f"{job.name}: cannot be planned before it runs ({error})"
            console.out.print(message)
            continue
        store = stores.setdefault(job.outputs, Store(job.outputs / "store"))
        models.add(graph.checkpoint.digest)
        work.add_run(graph, store)
    if store is None:
        console.out.print("nothing is left to plan")
        return
    _show_work(work, prices(store, models))


def graph_of(job: Job) -> Graph:
    """The graph of a sweep's run; nothing is fetched for it."""
    return Graph(job.config, job.outputs / "store", download=False)


def _show_work(work: Work, known: dict[str, Price]) -> None:
    columns = [
        text_column("work"),
        Column("needed", rank=2),
        Column("stored", rank=3),
        Column("to do"),
        Column("each took", rank=1),
        Column("time"),
        Column("disk"),
    ]
    table = Sheet("work that is left, each piece once", columns)
    seconds = 0.0
    size = 0.0
    unknown: list[str] = []
    for kind, pieces in work.pieces.items():
        left = sum(not is_stored for is_stored in pieces.values())
        cells = [kind, str(len(pieces)), str(len(pieces) - left), str(left)]
        price = known.get(kind)
        if price is None:
            if left:
                unknown.append(kind)
            table.add_row(*cells, "?" if left else "", "", "")
            continue
        seconds += left * price.seconds
        size += left * price.bytes
        time = duration(left * price.seconds)
        disk = human(left * price.bytes)
        table.add_row(*cells, f"{price.seconds:.2f} s", time, disk)
    console.out.print(table)
    at_most = "at most " if work.is_bound else ""
    console.out.print(
        f"{at_most}{duration(seconds)} and {human(size)}, by the medians of what "
        "was made here for these models"
    )
    if work.is_bound:
        console.out.print("at most: what a plan takes is only known after what it goes by is made")
    if unknown:
        console.out.print(f"not counted, since none was made here yet: {', '.join(unknown)}")
