"""An artefact is a value: a frozen dataclass whose fields are its key, made once and then found.

```python
@dataclass(frozen=True, eq=False, repr=False)
class EntropyProfile(Artefact[list[LayerEntropy]]):
    stage: ClassVar = "profile"
    version: ClassVar = 1         # raise it when make() gives other bytes
    calibration: Calibration      # another artefact: its key enters this key

    def make(self, folder: Path, tools: Tools) -> None: ...
    def read(self, folder: Path) -> list[LayerEntropy]: ...
```

Nothing that is not a field may change the bytes that `make` writes. Classes stand beside the code
that they run, in modules that import no torch; `make` and `read` import it late.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from luq.store.keys import Identified, fields_of

if TYPE_CHECKING:
    from pathlib import Path

    from luq.store.store import Store

T = TypeVar("T")
Advance = Callable[[str, int], None]  # takes what was just done, and how many steps that was


class Artefact(Identified, ABC, Generic[T]):
    """What a stage makes. A class without `stage` and `version` cannot be defined."""

    stage: ClassVar[str]
    version: ClassVar[int]

    def __init_subclass__(cls, abstract: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        missing = [name for name in ("stage", "version") if not hasattr(cls, name)]
        if missing and not abstract:
            raise TypeError(f"artefact {cls.__name__} lacks {' and '.join(missing)}")

    def identity(self) -> Any:
        """Class, version, and the fields that are not volatile nor defaults."""
        return {"version": self.version, **fields_of(self)}

    @property
    def label(self) -> str:
        """STAGE/KEY, its place in the store."""
        return f"{self.stage}/{self.key}"

    @property
    def description(self) -> str:
        """What it is, in words for logs; its last word may tell artefacts of a stage apart."""
        return f"the {self.stage}"

    def needs(self) -> list[Artefact[Any]]:
        """The artefacts among its fields, in order and each once."""
        return list(dict.fromkeys(_artefacts_in(self)))

    @abstractmethod
    def make(self, folder: Path, tools: Tools) -> None:
        """Write the artefact's files into an empty folder."""

    @abstractmethod
    def read(self, folder: Path) -> T:
        """The value that `make` wrote."""


class Get(Protocol):
    """The value of an artefact: a store's `get` or `peek`."""

    def __call__(self, artefact: Artefact[T]) -> T:
        """The value."""
        ...


def _artefacts_in(value: Any) -> Iterator[Artefact[Any]]:
    """Artefacts in the fields of a dataclass, also inside tuples, lists and other dataclasses."""
    for entry in fields(value):
        if entry.metadata.get("volatile"):
            continue
        item = getattr(value, entry.name)
        for part in item if isinstance(item, list | tuple) else [item]:
            if isinstance(part, Artefact):
                yield part
            elif is_dataclass(part) and not isinstance(part, type):
                yield from _artefacts_in(part)


class Progress(Protocol):
    """Who is told how far long work is."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A part of the work whose time is told for itself."""
        ...

    def bar(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A bar of `total` steps."""
        ...

    def note(self, text: str) -> None:
        """One line that people should see."""
        ...


class Silent:
    """Tells nobody."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """No line."""
        return nullcontext()

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """No bar."""
        yield lambda what, steps: None

    def note(self, text: str) -> None:
        """No line."""


class Holdings:
    """What is expensive to have in memory (a loaded model, its hidden states): one of each kind."""

    def __init__(self) -> None:
        self._values: dict[type, tuple[object, Any]] = {}

    def hold(self, kind: type[T], key: object, open_: Callable[[], T], alone: bool = False) -> T:
        """What is held of a kind if it was opened for the same key, else `open_()`.

        What was held for another key is let go first, since two models may not fit into memory;
        with `alone` so is everything else, since it rests on it.
        """
        if kind in self._values and self._values[kind][0] == key:
            value: T = self._values[kind][1]
            return value
        if alone:
            self._values.clear()
        self._values.pop(kind, None)
        opened = open_()
        self._values[kind] = key, opened
        return opened

    def release(self, kind: type) -> None:
        """Let go what is held of a kind."""
        self._values.pop(kind, None)


class Tools:
    """What `make` may use beside its fields; none of it changes a byte of what is made."""

    def __init__(
        self, store: Store, progress: Progress | None = None, holdings: Holdings | None = None
    ):
        self.store = store  # the values of other artefacts
        self.progress: Progress = progress or Silent()
        self._holdings = holdings or Holdings()
        self.hold = self._holdings.hold
        self.release = self._holdings.release
