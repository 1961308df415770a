"""What a run's artefacts are, and the pieces in which workers make them.

A piece is a list of artefacts that one worker makes in order, since they share what is expensive to
have in memory:

| piece | its artefacts | what they share |
|---|---|---|
| walk | decoder layers, one after another | hidden states of the calibration tokens |
| answers | all that one packed model is asked | the model with its packed weights |
| any other | one artefact | |

Walks are cut where two plans part: what both have is made once, and the rest by two workers.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from luq.evaluation.artefacts import Asked, Fidelity, Layers, TaskAnswers, TextLosses
from luq.planning import LayerScores, allocate
from luq.profiling.artefacts import ForwardScores
from luq.quantization.artefacts import PackedLayer, Parts
from luq.store.artefact import Artefact
from luq.store.store import NotMade, Store
from luq.tower import planned_parts
from pipelines.graph import Graph

AnyArtefact = Artefact[Any]
ASKED = (Asked, TaskAnswers, Fidelity, TextLosses)  # what a packed model is asked


class Needed(NamedTuple):
    """What a run needs, as far as that is known."""

    artefacts: list[AnyArtefact]
    is_all: bool  # False: the plan is only known when these are made


def first_needed(graph: Graph) -> list[AnyArtefact]:
    """What the checks before a run's work are about."""
    if not graph.is_calibrated:
        return []
    return [*graph.calibrations, *graph.shared_questions()]


def needed(graph: Graph, store: Store) -> Needed:
    """What a run needs whose checks have passed."""
    artefacts: list[AnyArtefact] = [graph.rest]
    if graph.is_profiled:
        artefacts += graph.profiles
    artefacts += graph.float_layers
    artefacts += graph.answers(graph.float_layers, graph.questions).values()
    artefacts += _losses(graph, graph.float_layers)
    try:
        parts = planned_parts(graph, store.peek).parts
        layers = graph.layers(allocate(graph, store.peek).allocation)
    except NotMade as missing:
        return Needed([*artefacts, *_with_company(graph, store, missing)], is_all=False)
    artefacts += [*layers, *parts]
    artefacts += graph.answers(layers, graph.questions, parts).values()
    artefacts += graph.fidelity(layers, graph.questions, parts).values()
    artefacts += _losses(graph, layers, parts)
    if graph.is_profiled:
        try:
            scores = LayerScores(graph, store.peek)
            scores.order()
            scores.recorded()  # its draws are among what it needs
        except NotMade as missing:
            return Needed([*artefacts, *_with_company(graph, store, missing)], is_all=False)
    return Needed(artefacts, is_all=True)


def _with_company(graph: Graph, store: Store, missing: NotMade) -> list[AnyArtefact]:
    """What a plan asked for; of a layer in a tier that is measured, all layers in that tier, and of
    scores of a draw those of all draws.
    """
    if isinstance(missing.artefact, ForwardScores):
        return list(graph.forward_scores)
    scores = LayerScores(graph, store.peek)
    for tier in graph.tiers:
        layers = scores.plain(tier)
        if any(layer.label == missing.artefact.label for layer in layers):
            return list(layers)
    return [missing.artefact]


def _losses(graph: Graph, layers: Layers, parts: Parts = ()) -> list[AnyArtefact]:
    losses = graph.text_losses(layers, parts)
    return [] if losses is None else [losses]


@dataclass(frozen=True, eq=False)
class Piece:
    """Artefacts that one worker makes, in order."""

    artefacts: list[AnyArtefact]
    after: set[str] = field(default_factory=set)  # names of the pieces that it needs

    @property
    def name(self) -> str:
        """No other piece has it: the place in the store of the last artefact."""
        return self.artefacts[-1].label

    @property
    def description(self) -> str:
        """What it is, in words."""
        first, last = self.artefacts[0], self.artefacts[-1]
        if isinstance(first, PackedLayer) and first is not last:
            return f"{first.description} to {last.description}"
        if isinstance(first, ASKED) and first is not last:
            tiers = dict.fromkeys(layer.name for layer in first.layers)
            return f"{len(self.artefacts)} measures of the model in {', '.join(tiers)}"
        return first.description


class Pieces:
    """The pieces of several runs: what is in one is in no other.

    Args:
        store: what it has is in no piece.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._owner: dict[str, Piece] = {}  # of each artefact, by label

    def of(self, artefacts: Iterable[AnyArtefact]) -> set[str]:
        """The names of the pieces that some artefacts are in, of those that there are already."""
        labels = {artefact.label for artefact in self.missing(artefacts)} & self._owner.keys()
        return {self._owner[label].name for label in labels}

    def add(self, artefacts: Iterable[AnyArtefact]) -> list[Piece]:
        """New pieces for what is in none yet; each stands after those that it needs."""
        missing = [item for item in self.missing(artefacts) if item.label not in self._owner]
        pieces = [Piece(group) for group in _groups(missing)]
        for piece in pieces:
            self._owner |= dict.fromkeys((item.label for item in piece.artefacts), piece)
        for piece in pieces:
            needs = {need.label for artefact in piece.artefacts for need in artefact.needs()}
            piece.after.update(self._owner[label].name for label in needs & self._owner.keys())
            piece.after.discard(piece.name)
        return _in_order(pieces)

    def missing(self, artefacts: Iterable[AnyArtefact]) -> list[AnyArtefact]:
        """Of these and all that they need what the store lacks: needs first, each once."""
        missing_artefacts: dict[str, AnyArtefact] = {}
        visited: set[str] = set()

        def visit(artefact: AnyArtefact) -> None:
            if artefact.label in visited:
                return
            visited.add(artefact.label)
            if self.store.has(artefact):
                return
            for need in artefact.needs():
                visit(need)
            missing_artefacts[artefact.label] = artefact

        for artefact in artefacts:
            visit(artefact)
        return list(missing_artefacts.values())


def _groups(missing: list[AnyArtefact]) -> list[list[AnyArtefact]]:
    """The artefacts of each piece."""
    groups: list[list[AnyArtefact]] = []
    groups += _walks([item for item in missing if isinstance(item, PackedLayer)])
    by_layers: dict[tuple[str, ...], list[AnyArtefact]] = {}
    for artefact in missing:
        if isinstance(artefact, ASKED):
            packed = (*artefact.layers, *artefact.parts)
            by_layers.setdefault(tuple(item.label for item in packed), []).append(artefact)
        elif not isinstance(artefact, PackedLayer):
            groups.append([artefact])
    return groups + list(by_layers.values())


def _walks(layers: list[PackedLayer]) -> list[list[AnyArtefact]]:
    """Layers whose inputs are made on one walk.

    A chain is a walk through the layers that it makes, cut where plans part. Layers that no other
    rests on, in one tier, are made on a walk through others.
    """
    passed = {layer.before[-1].label for layer in layers if layer.before}
    last_layers = [layer for layer in layers if layer.label not in passed]
    side_walks = [walk for walk in _joined(last_layers, _is_beside) if len(walk) > 1]
    labels = {layer.label for walk in side_walks for layer in walk}
    chained = [layer for layer in layers if layer.label not in labels]
    followers = Counter(layer.before[-1].label for layer in chained if layer.before)

    def follows(layer: PackedLayer, following: PackedLayer) -> bool:
        is_next = bool(following.before) and following.before[-1].label == layer.label
        return is_next and followers[layer.label] == 1

    return [list(walk) for walk in [*_joined(chained, follows), *side_walks]]


def _joined(
    layers: list[PackedLayer], follows: Callable[[PackedLayer, PackedLayer], bool]
) -> list[list[PackedLayer]]:
    """Lists of layers of which each follows the one before it."""
    walks: list[list[PackedLayer]] = []
    for layer in layers:
        for walk in walks:
            if follows(walk[-1], layer):
                walk.append(layer)
                break
        else:
            walks.append([layer])
    return walks


def _is_beside(layer: PackedLayer, following: PackedLayer) -> bool:
    """Whether the samples of the second go through what those of the first went through, and on."""
    is_same_kind = (layer.tiers, layer.calibration, layer.gradients, layer.refinement) == (
        following.tiers,
        following.calibration,
        following.gradients,
        following.refinement,
    )
    is_next = following.index == layer.index + 1
    return is_same_kind and is_next and following.before[: len(layer.before)] == layer.before


def _in_order(pieces: list[Piece]) -> list[Piece]:
    """Each piece after those that it needs."""
    by_name = {piece.name: piece for piece in pieces}
    ordered: dict[str, Piece] = {}

    def visit(piece: Piece) -> None:
        if piece.name in ordered:
            return
        for name in sorted(piece.after & by_name.keys()):
            visit(by_name[name])
        ordered[piece.name] = piece

    for piece in pieces:
        visit(piece)
    return list(ordered.values())
