"""Grafting: a real language model, from its installed package, with what was trained for it.

The folder that comes of it is a checkpoint like any other. Its card says of which files it was
made, so that a graft of an earlier version is noticed.
"""

from pathlib import Path

from luq.errors import ConfigError
from luq.pocket import smol, smollm2, trained
from luq.pocket.grafted import CARD, GRAFTED, shipped_file
from luq.pocket.saving import export
from luq.store.digests import file_digest
from luq.store.sealed import sealed
from luq.store.writers import sole_writer

LANGUAGE_MODELS = ("smollm2",)


def graft(folder: Path, trained_file: Path | None = None) -> Path:
    """Write the grafted model as a 16-bit Hugging Face folder.

    Args:
        folder: The checkpoint. An earlier graft there is replaced.
        trained_file: What was trained; None: what ships with the project.

    Raises:
        ConfigError: The language model's package is not installed, or the folder holds something
            else.
        ModelError: A file is damaged, or the two do not belong together.
    """
    with sole_writer(folder, "graft"):
        _check_target(folder)
        source = trained_file or shipped_file()
        package = smollm2.packaged_file()
        language_model = smollm2.GgufModel(package).digest
        tokenizer = smol.make_tokenizer()
        model = smol.build(tokenizer, 0, 0)
        trained.merge(source, model, language_model)
        digest = file_digest(source)[1]
        card = {"model": GRAFTED, "language_model": language_model, "trained": digest}
        return export(model, smol.make_processor(tokenizer), folder, {CARD: sealed(card)})


def _check_target(folder: Path) -> None:
    """A ConfigError if something stands there that a graft must not replace."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / CARD).exists()):
        raise ConfigError(f"{folder} holds something else than a graft: give another folder")
