"""`--plan`: the work that runs have left, and what it will cost. Writes and fetches nothing.

What such work took before in this store is its price. What was never made here is projected, for
which parts of it are measured; only then is torch imported.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from luq.config import RunConfig
from luq.errors import ConfigError, LuqError, brief
from luq.store.store import Store
from pipelines import console, run
from pipelines.composing import Composer
from pipelines.conf_folder import CONF, allow_modules
from pipelines.cost import Piece, Price, Work, prices
from pipelines.graph import Graph
from pipelines.grid import all_combinations
from pipelines.schema import (
    SEARCH_PATH,
    check_choices,
    composition_error,
    register,
    to_config,
    with_own_model,
)
from pipelines.sheet import Column, Sheet, text_column
from pipelines.sweep import ImpossibleJob, Sweep, show_status
from pipelines.units import duration, human

if TYPE_CHECKING:
    from pipelines.projector import Projector

STORED = "the store"
PROJECTED = "projection"
START = "start and load"


def show_sweep_plan(sweep: Sweep) -> None:
    """Print the grid with its states, then the work that is left and its cost."""
    plan = Plan()
    for job, found in zip(sweep.jobs, show_status(sweep), strict=True):
        if not isinstance(job, ImpossibleJob) and found.record is None:
            plan.add(job.name, job.config)
    plan.show()


def show_run_plan(words: Sequence[str], is_multirun: bool, own: Path | None) -> None:
    """Print the work that runs of `luq run` have left, and its cost.

    Args:
        words: overrides.
        is_multirun: whether commas separate values of several runs.
        own: a user's folder of configs.

    Raises:
        ConfigError: they make no config, or a search, whose runs nobody knows yet.
    """
    run_plan(words, is_multirun, own).show()


def run_plan(words: Sequence[str], is_multirun: bool = False, own: Path | None = None) -> "Plan":
    """The work that runs of `luq run` have left; arguments and errors as of `show_run_plan`."""
    plan = Plan()
    for name, config in _configs(words, is_multirun, own):
        if run.done(config) is None:
            plan.add(name, config)
        else:
            console.out.print(f"{name}: its record is there")
    return plan


def _configs(
    words: Sequence[str], is_multirun: bool, own: Path | None
) -> list[tuple[str, RunConfig]]:
    """The configs of a command line, each with its run's name."""
    register()
    overrides = with_own_model(words)
    check_choices(overrides, own)
    allow_modules(own)
    of_hydra = [o for o in overrides if o.lstrip("+~").startswith("hydra")]
    if any("sweeper" in override for override in of_hydra):
        raise ConfigError(
            "--plan is not possible for a search: which runs it makes is known when it is at them. "
            "Leave hydra/sweeper out"
        )
    task = [o for o in overrides if o not in of_hydra]
    search_path = [o for o in of_hydra if o.lstrip("+").startswith(SEARCH_PATH)]
    if own is not None:
        search_path.append(f"{SEARCH_PATH}=['file://{own.resolve()}']")
    configs: list[tuple[str, RunConfig]] = []
    try:
        combinations = [task]
        if is_multirun:
            combinations = all_combinations(OverridesParser.create().parse_overrides(task))
        with initialize_config_dir(str(CONF), version_base=None):
            composer = Composer(search_path)
            for chosen in combinations:
                config = to_config(composer.compose(chosen))
                configs.append((run.job_name(chosen), config))
    except HydraException as error:
        raise composition_error(error) from error
    return configs


@dataclass
class Total:
    """All that is left of one kind of work."""

    count: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    memory: float = 0.0  # at most, at a time
    source: str = STORED
    problem: str = ""  # why it is not known

    def add(self, price: Price, memory: float) -> None:
        """A piece of it."""
        self.count += 1
        self.seconds += price.seconds
        self.bytes += price.bytes
        self.memory = max(self.memory, memory)


@dataclass
class Plan:
    """The work of some runs."""

    work: Work = field(default_factory=Work)
    stores: dict[Path, Store] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)

    def add(self, name: str, config: RunConfig) -> None:
        """The work of a run that has no record."""
        root = Path(config.paths.outputs) / "store"
        try:
            graph = Graph(config, root, download=False)  # nothing is fetched for it
        except LuqError as error:
            console.out.print(f"{name}: cannot be planned before it runs ({error})")
            return
        store = self.stores.setdefault(root, Store(root))  # compares artefacts with manifests once
        self.models.add(graph.checkpoint.digest)
        self.work.add_run(graph, store)

    def show(self) -> None:
        """Print what is left, and its cost."""
        if not self.stores:
            console.out.print("nothing is left to plan")
            return
        totals = self.totals()
        console.out.print(_sheet(self.work, totals))
        for line in _words(self.work, totals):
            console.out.print(line)

    def totals(self) -> dict[str, Total]:
        """What is left of each kind of work."""
        known: dict[str, Price] = {}
        for store in self.stores.values():
            known |= prices(store, self.models)
        return _totals(self.work, known)


def _totals(work: Work, known: dict[str, Price]) -> dict[str, Total]:
    """What is left of each kind."""
    totals: dict[str, Total] = {}
    left = work.left
    if all(kind in known for kind, _ in left):
        for kind, _ in left:
            totals.setdefault(kind, Total()).add(known[kind], 0.0)
        return totals
    begin = time.perf_counter()
    projector = _projector()
    import_seconds = time.perf_counter() - begin
    try:
        load = projector.load(left[0][1])
        totals[START] = Total(1, import_seconds + load.seconds, 0.0, load.memory, PROJECTED)
    except Exception as error:  # noqa: BLE001  # whatever a family's code makes of a replica
        totals[START] = Total(source=PROJECTED, problem=brief(error))
    for kind, piece in left:
        total = totals.setdefault(kind, Total(source=STORED if kind in known else PROJECTED))
        _count(total, piece, known.get(kind), projector)
    if any(total.memory for total in totals.values()):
        process = projector.process_bytes()
        for total in totals.values():
            total.memory += process if total.memory else 0.0
    return totals


def _count(total: Total, piece: Piece, price: Price | None, projector: "Projector") -> None:
    """Add a piece to the total of its kind."""
    try:
        projected = projector.project(piece, is_priced=price is not None)
    except Exception as error:  # noqa: BLE001  # whatever a family's code makes of a replica
        if price is None:
            total.problem = brief(error)
        else:
            total.add(price, 0.0)
        return
    if price is None and projected.problem:
        total.problem = projected.problem
        return
    total.add(price or Price(projected.seconds, projected.bytes), projected.memory)


def _projector() -> "Projector":
    """Late: it imports torch."""
    from pipelines.projector import Projector

    return Projector()


def _sheet(work: Work, totals: dict[str, Total]) -> Sheet:
    columns = [
        text_column("work"),
        Column("needed", rank=3),
        Column("stored", rank=4),
        Column("to do"),
        Column("each takes", rank=2),
        Column("time"),
        Column("disk"),
        Column("memory", rank=1),
        text_column("by"),
    ]
    rows: list[list[str]] = []
    if START in totals:
        rows.append([START, "", "", "", "", *_amounts(totals[START])])
    for kind, pieces in work.pieces.items():
        left = sum(not piece.is_stored for piece in pieces.values())
        counts = [kind, str(len(pieces)), str(len(pieces) - left), str(left)]
        total = totals.get(kind)
        if total is None:
            rows.append([*counts, "", "", "", "", ""])
            continue
        each = f"{total.seconds / total.count:.2f} s" if total.count else ""
        rows.append([*counts, each, *_amounts(total)])
    # memory is known of projected work, and what prices come from is said below if it is all one
    shown = [any(row[index] for row in rows) for index in range(len(columns))]
    shown[-1] = len({total.source for total in totals.values()}) > 1
    table = Sheet("work that is left, each piece once", list(compress(columns, shown)))
    for row in rows:
        table.add_row(*compress(row, shown))
    return table


def _amounts(total: Total) -> list[str]:
    """Time, disk, memory, and by what they are known."""
    if total.problem:
        return ["?", "", "", total.source]
    disk = human(total.bytes) if total.bytes else ""
    memory = human(total.memory) if total.memory else ""
    return [duration(total.seconds), disk, memory, total.source]


def _words(work: Work, totals: dict[str, Total]) -> list[str]:
    """What is said below the table."""
    counted = {kind: total for kind, total in totals.items() if not total.problem}
    seconds = sum(total.seconds for total in counted.values())
    size = sum(total.bytes for total in counted.values())
    at_most = "at most " if work.is_bound else ""
    lines = [f"{at_most}{duration(seconds)} and {human(size)} on the disk"]
    largest = max(counted, key=lambda kind: counted[kind].memory, default="")
    if largest and counted[largest].memory:
        lines[0] += f"; {human(counted[largest].memory)} of memory ({largest})"
    sources = {total.source for total in totals.values()}
    if STORED in sources:
        lines.append(f"{STORED}: the median of what was made here for these models")
    if PROJECTED in sources:
        lines.append(f"{PROJECTED}: from shapes, tokens and measurements of this machine")
    if work.is_bound:
        lines.append("at most: what a plan takes is only known after what it goes by is made")
    if work.measures:
        lines.append("not counted: what a plan measures or asks before it chooses, but the first")
    problems = {kind: total.problem for kind, total in totals.items() if total.problem}
    for problem in dict.fromkeys(problems.values()):
        kinds = ", ".join(kind for kind, said in problems.items() if said == problem)
        lines.append(f"not counted: {kinds} ({problem})")
    return lines
