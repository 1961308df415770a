"""Grafting: a real language model, from its installed package, with what was trained for it.

The folder that comes of it is a checkpoint like any other. Its card says of which files it was
made, so that a graft of an earlier version is noticed.
"""

import logging
from pathlib import Path

from luq.errors import ConfigError, StoreError
from luq.pocket import smol, smollm2, trained
from luq.pocket.saving import export
from luq.pocket.settings import GRAFTED
from luq.store.digests import file_digest
from luq.store.sealed import read_table, sealed
from luq.store.writers import sole_writer

log = logging.getLogger(__name__)
LANGUAGE_MODELS = ("smollm2",)
CARD = "graft.json"
UNTRAINED = ""  # what the card says in place of a digest


def graft(folder: Path, trained_file: Path | None = None) -> Path:
    """Write the grafted model as a 16-bit Hugging Face folder.

    Args:
        folder: The checkpoint. An earlier graft there is replaced.
        trained_file: What was trained; None: what ships with the project. If nothing does, the
            model is one to be trained, which answers nothing.

    Raises:
        ConfigError: The language model's package is not installed, or the folder holds something
            else.
        ModelError: A file is damaged, or the two do not belong together.
    """
    with sole_writer(folder, "graft"):
        _check_target(folder)
        source = trained_file or _shipped_if_any()
        package = smollm2.packaged_file()
        language_model = smollm2.GgufModel(package).digest
        tokenizer = smol.make_tokenizer()
        model = smol.build(tokenizer, 0, 0)
        digest = UNTRAINED
        if source is None:
            log.warning(
                "%s is not trained yet, and no trained file is part of this version: the graft is "
                "a model to be trained, and answers nothing",
                GRAFTED,
            )
        else:
            trained.merge(source, model, language_model)
            digest = file_digest(source)[1]
        card = {"model": GRAFTED, "language_model": language_model, "trained": digest}
        return export(model, smol.make_processor(tokenizer), folder, {CARD: sealed(card)})


def _shipped_if_any() -> Path | None:
    file = trained.shipped_file(GRAFTED)
    return file if file.exists() else None


def _check_target(folder: Path) -> None:
    """A ConfigError if something stands there that a graft must not replace."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / CARD).exists()):
        raise ConfigError(f"{folder} holds something else than a graft: give another folder")


def grafted_folder(folder: Path) -> Path:
    """A folder with the grafted model of this version.

    Raises:
        ConfigError: The model is not trained yet, is not grafted there, or is of another version.
        StoreError: The graft's card is damaged.
    """
    file = trained.shipped_file(GRAFTED)
    if not file.exists():
        raise ConfigError(
            f"{GRAFTED} is not trained yet: this version ships nothing that could answer. `luq "
            f"pocket train DIR --model {GRAFTED}` trains it, and model.path=DIR/checkpoint runs "
            "what comes of it"
        )
    command = f"make smol, or: {smollm2.INSTALL}; luq pocket graft {folder}"
    card_file = folder / CARD
    if not card_file.exists():
        raise ConfigError(f"{GRAFTED} is not grafted in {folder}: {command}")
    try:
        card = read_table(card_file)
    except ValueError as error:
        raise StoreError(f"{card_file} is damaged ({error}): {command}") from error
    if card.get("trained") != file_digest(file)[1]:
        raise ConfigError(f"{folder} was grafted by another version of luq: {command}")
    return folder
