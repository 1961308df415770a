"""Progress bars for who calls LUQ from Python: shown on a terminal, and nowhere else."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tqdm.auto import tqdm

from luq.store.artefact import Advance

log = logging.getLogger(__name__)


class Bars:
    """Shows long work as bars (`luq.store.artefact.Progress`)."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Nothing: its bars say enough."""
        return nullcontext()

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """A bar of `total` steps."""
        # disable=None: no bar where the output is no terminal
        with tqdm(total=total, desc=name, leave=False, disable=None) as bar:

            def advance(what: str, steps: int) -> None:
                if what:
                    bar.set_postfix_str(what, refresh=False)
                bar.update(steps)

            yield advance

    def note(self, text: str) -> None:
        """One line in the log."""
        log.info(text)
