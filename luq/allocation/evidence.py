"""What a plan may ask for: orders, scores, sizes and errors of parts, and the model's answers."""

from typing import NamedTuple, Protocol

from luq.allocation.allocations import Allocation


class Part(NamedTuple):
    """What gets a tier as a whole: a layer, or some of its linears."""

    layer: int
    linears: tuple[str, ...] = ()  # their names within the layer; empty: all of it


class Selection(NamedTuple):
    """Score of an allocation on the selection split, in percent, with its standard error and n."""

    score: float
    stderr: float
    n: int


class Evidence(Protocol):
    """What a plan may ask; each question can cost time, so a plan asks only what it needs."""

    low: str  # name of the low tier
    high: str  # name of the high tier
    margin: int  # bytes that the real files of a plan took more than `size` said

    @property
    def order(self) -> list[int]:
        """The layers, most compressible first."""
        ...

    def entropies(self) -> list[float]:
        """Bits per layer."""
        ...

    def linears(self, layer: int) -> tuple[str, ...]:
        """The names of a layer's linears."""
        ...

    def size(self, part: Part, tier: str) -> int:
        """Bytes of a layer's file in a tier; of linears without the file's header."""
        ...

    def header_size(self, layer: int, tiers: list[str]) -> int:
        """Bytes of the header of a layer's file whose linears are in some of the tiers."""
        ...

    def error(self, part: Part, tier: str) -> float:
        """Measured error of one part in a tier, all others in 16 bit."""
        ...

    def select(self, allocation: Allocation) -> Selection:
        """Score on questions of the selection split, never of the report split."""
        ...

    def divergence(self, allocation: Allocation) -> float:
        """KL to the 16-bit model on the selection split, in nats per answer token."""
        ...

    def rest_bytes(self) -> int:
        """Bytes of everything that is not a decoder linear."""
        ...

    def weights(self) -> int:
        """Number of weights in the decoder linears."""
        ...
