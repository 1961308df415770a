"""What a sweep will cost, before anything runs: which artefacts it needs, which are there, and what such ones took before."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from rich.table import Table

from luq.allocation.plans import Allocation
from luq.errors import LuqError
from luq.models.checkpoint import Outline, outline
from luq.models.vlm import VLM
from luq.quantization.walk import layer_keys
from luq.store import keys
from luq.store.store import Store
from pipelines import console
from pipelines.stages import Stages
from pipelines.sweep import Job, Sweep


class _Missing(Exception):
    """Something has to be made before more can be known."""


class _Peek(Store):
    """A store that makes nothing."""

    def get(self, stage: str, key: str, build: Any, what: str = "") -> Path:
        if not self.has(stage, key):
            raise _Missing(what)
        return self.path(stage, key)


class Outlook(Stages):
    """The stages of a run as far as the store knows them: no model is loaded and nothing is made."""

    def __init__(self, job: Job):
        assert job.config is not None
        super().__init__(job.config, console.Silent())
        self.store = _Peek(self.outputs / "store")

    @cached_property
    def outline(self) -> Outline:
        return outline(self.config.model, download=False)

    @cached_property
    def vlm(self) -> VLM:
        return self._missing()

    def _missing(self) -> NoReturn:
        raise _Missing("the model")


@dataclass
class Needs:
    """Distinct pieces of work by kind, each with whether the store has it. `bounded`: some are only known as an upper bound."""

    pieces: dict[str, dict[Any, bool]] = field(default_factory=lambda: defaultdict(dict))
    bounded: bool = False

    def add(self, job: Job) -> None:
        """What a run that is not done needs."""
        look = Outlook(job)
        fingerprint = look.outline.fingerprint
        calibrated = [
            fingerprint,
            keys.canonical([look.config.model.asking, look.config.calibration]),
        ]
        self.pieces["calibration sets"][look.calibration.key] = look.store.has(
            "calibration", look.calibration.key
        )
        try:
            self.pieces["profiles"][look.profile_key] = look.store.has("profile", look.profile_key)
        except _Missing:
            profile = look.config.profile
            asked = (profile.clusters, profile.tokens, profile.seeds, profile.seed)
            self.pieces["profiles"][(*calibrated, *asked)] = False
        try:
            allocation: Allocation | None = look.chosen.allocation
        except _Missing:
            allocation = None
        self._layers(look, allocation, calibrated)
        answered = (
            *calibrated,
            str(allocation) if allocation else job.key,
            keys.canonical(look.config.quantizer),
        )
        for benchmark in look.config.evaluation.benchmarks:
            self.pieces[f"answers {benchmark}"][
                (*answered, keys.canonical(look.config.evaluation))
            ] = False

    def _layers(self, look: Outlook, allocation: Allocation | None, calibrated: list[str]) -> None:
        quantizer = look.config.quantizer
        if allocation is not None:
            try:
                info = look.calibration_info["hash"]
            except (
                _Missing
            ):  # keys that no artefact has, and that are as different as the real ones will be
                info = calibrated[1]
            for key, tier in zip(
                layer_keys(calibrated[0], info, quantizer, allocation),
                allocation.tiers,
                strict=True,
            ):
                self.pieces[f"layers {tier}"][key] = look.store.has("layers", key)
            return
        self.bounded = True
        shared = quantizer.propagation != "exact"
        for tier in dict.fromkeys((quantizer.low, quantizer.high, *look.config.allocation.tiers)):
            for layer in range(look.outline.layers):
                run = (
                    quantizer.propagation if shared else (look.config.allocation, look.config.order)
                )
                self.pieces[f"layers {tier}"][
                    (*calibrated, keys.canonical(quantizer.tiers[tier]), keys.key(run), layer)
                ] = False


def _kind(entry: dict[str, Any]) -> str:
    """The kind of an entry of the store's log, in the words of `Needs`."""
    last = entry["what"].split()[-1]
    kinds = {"calibration": "calibration sets", "profile": "profiles"}
    named = {"layers": f"layers {last}", "evaluation": f"answers {last}"}
    return (kinds | named).get(entry["stage"], "")


def seen(store: Store, about: set[str]) -> dict[str, tuple[float, float]]:
    """Kind -> median seconds and bytes of what was made for these models."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in store.built():
        if entry.get("about") in about:
            found[_kind(entry)].append(entry)
    return {
        k: (median(e["seconds"] for e in some), median(e["bytes"] for e in some))
        for k, some in found.items()
        if k
    }


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def show(sweep: Sweep) -> None:
    """Print the grid with its states, then the work that is left and its cost."""
    from pipelines.sweep import status

    status(sweep)
    needs, models, store = Needs(), set(), None
    for job in sweep.jobs:
        if job.config is None or job.record():
            continue
        try:
            needs.add(job)
            models.add(outline(job.config.model, download=False).fingerprint)
            store = Store(job.outputs / "store")
        except LuqError as error:
            console.out.print(
                f"{job.name}: cannot be planned before it runs ({error})", markup=False
            )
    if store is None:
        console.out.print("nothing is left to plan")
        return
    known = seen(store, models)
    shown = Table(title="work that is left, each piece once", title_justify="left")
    for name in ("work", "needed", "stored", "to do", "each took", "time", "disk"):
        shown.add_column(name, justify="left" if name == "work" else "right")
    seconds = size = 0.0
    unknown = []
    for kind, pieces in needs.pieces.items():
        left = sum(not there for there in pieces.values())
        took, took_bytes = known.get(kind, (None, None))
        cells = [kind, str(len(pieces)), str(len(pieces) - left), str(left)]
        if took is None or took_bytes is None:
            unknown += [kind] * bool(left)
            shown.add_row(*cells, "?" if left else "", "", "")
            continue
        seconds, size = seconds + left * took, size + left * took_bytes
        shown.add_row(*cells, f"{took:.2f} s", _time(left * took), console.human(left * took_bytes))
    console.out.print(shown)
    most = "at most " if needs.bounded else ""
    console.out.print(
        f"{most}{_time(seconds)} and {console.human(size)}, by the medians of what was made here for these models"
    )
    if needs.bounded:
        console.out.print("at most: which layers a plan takes is only known after its profile")
    if unknown:
        console.out.print(f"not counted, since none was made here yet: {', '.join(unknown)}")
