"""What runs will cost, before anything runs.

Which artefacts they need, which of them the store has, what such artefacts took before; and for
what was never made here, what it will take by a projection (`pipelines.projection`).
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeVar

from luq.allocation.allocations import Allocation
from luq.config.unread import chooses_by_questions, measures_errors
from luq.evaluation.artefacts import Layers
from luq.planning import allocate
from luq.quantization.artefacts import Parts
from luq.store.artefact import Artefact
from luq.store.keys import digest
from luq.store.store import NotMade, Store
from luq.tower import planned_parts
from pipelines.graph import Graph

T = TypeVar("T")
KINDS = {
    "calibration": "calibration sets",
    "profile": "profiles",
    "scores": "scores of layers",
    "reference": "probabilities",
    "fidelity": "fidelity",
    "perplexity": "perplexity",
}
QUESTIONS = "questions"


def kind_of(stage: str, description: str) -> str:
    """The kind of work that an artefact is, for people; empty for what costs next to nothing."""
    last_word = description.split()[-1]
    if stage in ("layers", "parts"):
        return f"{stage} {last_word}"
    if stage == "evaluation":
        return f"answers {last_word}"
    return KINDS.get(stage, "")


class Piece(NamedTuple):
    """A piece of work: what is made, for which run, and whether the store has it.

    What a plan is not known of yet has a stand-in of the same cost.
    """

    artefact: Artefact[Any]
    graph: Graph
    is_stored: bool


@dataclass
class Work:
    """Distinct pieces of work by kind, in the order in which runs make them.

    `is_bound`: some are only known as an upper bound. `measures`: a plan that is not known yet will
    measure errors or ask questions before it chooses, of which only the first are counted.
    """

    pieces: dict[str, dict[str, Piece]] = field(default_factory=lambda: defaultdict(dict))
    is_bound: bool = False
    measures: bool = False
    _is_unknown: bool = False  # whether a run's plan was not known before

    def add_run(self, graph: Graph, store: Store) -> None:
        """What a run that is not done needs."""
        self._add_questions(graph, store)
        if graph.is_calibrated:
            self._add(graph, store, graph.calibration)
        if graph.is_profiled:
            for profile in graph.profiles:
                self._add(graph, store, profile)
        layers = self._known(graph, store, lambda: _planned_layers(graph, store))
        parts = self._known(graph, store, lambda: planned_parts(graph, store.peek).parts)
        owner = "" if layers is not None and parts is not None else graph.key
        if layers is None:
            layers = self._add_stand_ins(graph, store)
        else:
            for layer in layers:
                self._add(graph, store, layer)
        if owner:
            # how many layers of a count are in which tier is known, but not what runs share
            is_sure = graph.config.allocation.name == "count" and parts is not None
            self.is_bound = self.is_bound or self._is_unknown or not is_sure
            self._is_unknown = True
            config = graph.config
            self.measures = self.measures or chooses_by_questions(config) or measures_errors(config)
        if parts is None:
            for tower in graph.uniform_towers:
                self._add(graph, store, tower)
            parts = graph.parts(None)
        self._add_evaluation(graph, store, _Packed(layers, parts, owner))

    def _known(self, graph: Graph, store: Store, value: Callable[[], T]) -> T | None:
        """What needs artefacts of the store; None, with the first that is missing as work, if they
        have not been made yet.
        """
        try:
            return value()
        except NotMade as missing:
            self._add(graph, store, missing.artefact)
            return None

    def _add_questions(self, graph: Graph, store: Store) -> None:
        """Tables of questions that a plug-in makes."""
        for table in graph.questions.tables.values():
            if isinstance(table.content, Artefact):
                piece = Piece(table.content, graph, store.has(table.content))
                self.pieces[QUESTIONS][table.content.key] = piece

    def _add_evaluation(self, graph: Graph, store: Store, packed: "_Packed") -> None:
        """Packed parts, layers in 16 bit, and what these and packed layers are asked."""
        for part in packed.parts:
            self._add(graph, store, part)
        questions = graph.questions
        answers = graph.answers(packed.layers, questions, packed.parts)
        fidelity = graph.fidelity(packed.layers, questions, packed.parts)
        losses = graph.text_losses(packed.layers, packed.parts)
        for layer in graph.float_layers:
            self._add(graph, store, layer)
        for float_answers in graph.answers(graph.float_layers, questions).values():
            self._add(graph, store, float_answers)
        for item in answers.values():
            self._add(graph, store, item, packed.owner)
        float_losses = graph.text_losses(graph.float_layers)
        if float_losses is not None:
            self._add(graph, store, float_losses)
        for measured in fidelity.values():
            self._add(graph, store, measured.reference)
        for measured in fidelity.values():
            self._add(graph, store, measured, packed.owner)
        if losses is not None:
            self._add(graph, store, losses, packed.owner)

    def _add(self, graph: Graph, store: Store, artefact: Artefact[Any], owner: str = "") -> None:
        """An artefact and all that it needs, unless the store has it.

        Args:
            graph: of the run.
            store: what is there.
            artefact: that is needed.
            owner: the run, if the artefact stands in for one that is not known yet: no other run
                shares it, and what it needs is counted for itself.
        """
        kind = kind_of(artefact.stage, artefact.description)
        if not owner:
            for need in artefact.needs():
                need_kind = kind_of(need.stage, need.description)
                if not need_kind or need.key not in self.pieces[need_kind]:
                    self._add(graph, store, need)
        if kind:
            key = digest(owner, artefact.key) if owner else artefact.key
            is_stored = not owner and store.has(artefact)
            self.pieces[kind][key] = Piece(artefact, graph, is_stored)

    def _add_stand_ins(self, graph: Graph, store: Store) -> Layers:
        """Layers of a plan that is not known yet; those that stand for its layers.

        Of a count it is known how many are in which tier, of other plans nothing: every layer is
        counted in every tier.
        """
        config = graph.config
        used = config.allocation.tiers or list(graph.tiers)
        names = [(name,) * graph.checkpoint.layers for name in used]
        if config.allocation.name == "count":
            low = config.allocation.k or 0
            high = graph.checkpoint.layers - low
            names = [(config.quantizer.low,) * low + (config.quantizer.high,) * high]
        # With exact propagation a layer depends on the allocation: no other run shares it.
        owner = graph.key
        if config.quantizer.propagation != "exact":
            owner = digest(graph.calibration.key, config.order)
        layers: Layers = ()
        for tiers in names:
            layers = graph.layers(Allocation(tiers))
            for layer in layers:
                if layer.calibration is None:  # it is the same in all allocations
                    self._add(graph, store, layer)
                    continue
                kind = kind_of(layer.stage, layer.description)
                key = digest(owner, layer.tiers, layer.index)
                self.pieces[kind][key] = Piece(layer, graph, is_stored=False)
        return layers

    @property
    def left(self) -> list[tuple[str, Piece]]:
        """What is not stored, with its kind, in order."""
        left: list[tuple[str, Piece]] = []
        for kind, pieces in self.pieces.items():
            left += [(kind, piece) for piece in pieces.values() if not piece.is_stored]
        return left


class _Packed(NamedTuple):
    """What a run packs; `owner` is the run, if some of it stands in for what is not known yet."""

    layers: Layers
    parts: Parts
    owner: str


def _planned_layers(graph: Graph, store: Store) -> Layers:
    return graph.layers(allocate(graph, store.peek).allocation)


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
