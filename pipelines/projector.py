"""Projections of all runs of a plan: each machine, model and question is measured once."""

from typing import NamedTuple

from luq.evaluation.artefacts import TaskAnswers
from luq.formats.memory import resident_bytes
from luq.models import devices
from luq.store.artefact import Artefact
from pipelines.cost import Piece
from pipelines.graph import Graph
from pipelines.machine import Machine
from pipelines.peaks import Peaks
from pipelines.projection import Projection


class Projected(NamedTuple):
    """What a piece of work will take; `problem`: why that is not known.

    `memory` is at most, beside what the process itself takes.
    """

    seconds: float
    bytes: float
    memory: float
    problem: str = ""


class Projector:
    """Prices of pieces of work, in the order in which runs make them."""

    def __init__(self) -> None:
        self._runs: dict[str, Projection] = {}
        self._machines: dict[tuple[str, str, str], Machine] = {}

    def load(self, piece: Piece) -> Projected:
        """Loading the model of a piece."""
        projection = self._projection(piece.graph)
        price = projection.load()
        return Projected(price.seconds, price.bytes, Peaks(projection).load)

    def project(self, piece: Piece, is_priced: bool) -> Projected:
        """A piece.

        Args:
            piece: of work.
            is_priced: its price is known otherwise: only its memory is of interest.
        """
        projection = self._projection(piece.graph)
        artefact: Artefact[object] = piece.artefact
        if isinstance(artefact, TaskAnswers):
            return Projected(0.0, 0.0, 0.0, "how many questions a task of lm-eval asks")
        if is_priced:
            projection.made(artefact)
            return Projected(0.0, 0.0, Peaks(projection).of(artefact))
        price = projection.price(artefact)
        return Projected(price.seconds, price.bytes, Peaks(projection).of(artefact))

    def _projection(self, graph: Graph) -> Projection:
        if graph.key not in self._runs:
            config = graph.config
            key = (graph.checkpoint.key, config.calibration.compute, config.evaluation.compute)
            projection = Projection(graph, self._machines.get(key))
            self._machines[key] = projection.machine
            self._runs[graph.key] = projection
        return self._runs[graph.key]

    def process_bytes(self) -> float:
        """What the process takes where the model is, beside all that is said of pieces.

        This process has by now imported what runs import.
        """
        machines = self._machines.values()
        names = {machine.graph.checkpoint.config.device for machine in machines}
        if any(devices.resolve(name) != "cpu" for name in names):
            return 0.0
        replicas = sum(machine.replica_bytes for machine in machines)
        return max(0.0, float(resident_bytes() - replicas))
