"""What a training leaves on the disk: its state, and a checkpoint that transformers loads."""

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from luq.errors import StoreError
from luq.store import durable
from luq.store.store import write_json

DIGEST_BYTES = 32  # of a sha256


def save_state(file: Path, state: dict[str, Any]) -> None:
    """Save a state, and the sha256 of its bytes behind it, so that the file is never half written.

    Raises:
        OSError: It cannot be written. The earlier state is kept.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getvalue()
    write_bytes(file, content + hashlib.sha256(content).digest())


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file that is never half written; its folder must be there."""
    scratch = file.with_suffix(".tmp")
    scratch.write_bytes(content)
    durable.sync(scratch)
    durable.replace(scratch, file)


def saved_state(file: Path) -> dict[str, Any]:
    """The state in a file.

    Raises:
        StoreError: It is not what was saved.
    """
    content = file.read_bytes()
    state, checksum = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(state).digest() != checksum:
        raise StoreError(
            f"{file} is damaged, or an earlier version wrote it: delete it, and the training "
            "begins again"
        )
    loaded: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return loaded


def export(
    model: PreTrainedModel, processor: Any, folder: Path, cards: dict[str, dict[str, Any]]
) -> Path:
    """Write a Hugging Face folder in fp16, as the Auto classes of transformers load it.

    It replaces an earlier one, and is there whole or not at all.

    Args:
        model: It is in fp16 afterwards.
        processor: Of its images and texts.
        folder: The checkpoint.
        cards: Name of a further JSON file -> its content.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of a training that was killed
    model.half()  # type: ignore[no-untyped-call]  # transformers has no types for it
    model.save_pretrained(scratch)
    processor.save_pretrained(scratch)
    for name, card in cards.items():
        write_json(scratch / name, card)
    for file in scratch.iterdir():  # the weights file is made with the rights of a temporary file
        file.chmod(0o644)
    durable.sync_tree(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    durable.replace(scratch, folder)
    return folder
