"""A transformers model that a user already holds, as a checkpoint: nothing is loaded again.

What the checkpoint's folder would hold beside the weights (config, generation config, tokenizer,
processor) is written into a folder, so that it is checked, keyed and exported as that of any other.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from luq.config import ModelConfig
from luq.errors import ModelError, brief
from luq.models.checkpoint import SETTINGS, Checkpoint, asking_of
from luq.models.decoder import find_layers, linears_of
from luq.models.loading import check_tokens, is_finite, load_skeleton
from luq.models.parts import tied_head
from luq.models.processors import load_processor
from luq.models.quiet import quiet
from luq.models.settings_files import CONFIG, check_asking, check_settings
from luq.models.vlm import VLM, wrapped
from luq.store.keys import digest

COMPUTED = ("float32", "float16", "bfloat16")
# What transformers writes into config.json that says nothing of the model itself.
INCIDENTAL = ("_name_or_path", "transformers_version")


class Adopted(NamedTuple):
    """A model in memory, and what stands for it in keys."""

    checkpoint: Checkpoint
    vlm: VLM


def adopt(
    model: Any,
    processor: Any,
    folder: Path,
    system_prompt: str = "",
    activations_gb: float = ModelConfig.activations_gb,
) -> Adopted:
    """A model in memory and its processor as a checkpoint.

    The model stays where it is, in the type that it has; it is not trained any more.

    Args:
        model: A model of transformers, not quantized and in one place.
        processor: Its processor, or the tokenizer of one that sees no images.
        folder: An empty folder, which has to be there as long as the checkpoint is used.
        system_prompt: With which the model is asked.
        activations_gb: Of calibration activations that stay in memory.

    Raises:
        ModelError: Model or processor cannot be used; the message says why.
    """
    device = _place(model)
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in COMPUTED:
        raise ModelError(
            f"the model in memory is computed in {dtype}: give it float32, float16 or bfloat16"
        )
    _write_settings(model, processor, folder)
    check_settings(folder)
    check_asking(folder)
    config = ModelConfig(
        name=type(model).__name__,
        path=str(folder),
        device=device,
        system_prompt=system_prompt,
        activations_gb=activations_gb,
    )
    with quiet():
        written_processor = load_processor(folder, model.config.model_type, config)
    check_tokens(folder, model, written_processor)
    vlm = wrapped(config, model, written_processor)
    _check_linears(vlm, folder)
    checkpoint = Checkpoint(
        digest=_digest(model, folder),
        dtype=dtype,
        asking=asking_of(config),
        config=config,
        folder=folder,
        layers=len(vlm.layers),
        sees_images=vlm.sees_images,
        ties_head=tied_head(model) is not None,
    )
    return Adopted(checkpoint, vlm)


def write_checkpoint(checkpoint: Checkpoint, vlm: VLM, folder: Path) -> None:
    """Write a model in memory as a checkpoint folder, with its 16-bit linears in place."""
    vlm.restore()
    with quiet():
        vlm.model.save_pretrained(folder)
    for file in checkpoint.folder.iterdir():
        shutil.copyfile(file, folder / file.name)


def _place(model: Any) -> str:
    """The device of a model; a ModelError unless all of it is on one that LUQ computes on."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise ModelError(
            f"{type(model).__name__} is no model of transformers: give one, a folder or a hub id"
        )
    devices = {str(tensor.device) for tensor in model.state_dict().values()}
    if len(devices) != 1:
        raise ModelError(
            f"the model in memory lies on {', '.join(sorted(devices))}: load it without "
            "device_map, or give its folder to luq.load"
        )
    (device,) = devices
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ModelError(
            f"the model in memory lies on {device}: move it to cpu or cuda, or give its folder to "
            "luq.load (stream=True leaves layers on disk)"
        )
    return device


def _write_settings(model: Any, processor: Any, folder: Path) -> None:
    """Write what a checkpoint's folder holds beside the weights."""
    try:
        with quiet():
            model.config.save_pretrained(folder)
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.save_pretrained(folder)
            processor.save_pretrained(folder)
    except Exception as error:  # whatever a config or a processor makes of it
        raise ModelError(
            f"config or processor of the model in memory cannot be written ({brief(error)}): give "
            "the model and its processor as transformers loads them"
        ) from error


def _check_linears(vlm: VLM, folder: Path) -> None:
    """A ModelError unless the decoder's linears are those of its config, and all values numbers."""
    skeleton_layers = find_layers(load_skeleton(folder))
    for index, expected in enumerate(skeleton_layers):
        names = set(linears_of(expected))
        differing_names = names.symmetric_difference(vlm.originals[index])
        if differing_names:
            raise ModelError(
                f"layer {index} of the model in memory has other linears than its config says "
                f"({', '.join(sorted(differing_names))}): merge adapters first, and give a model "
                "that is not quantized"
            )
    for name, tensor in vlm.model.state_dict().items():
        if not is_finite(tensor):
            raise ModelError(f"{name} of the model in memory holds NaN or infinite values")


def _digest(model: Any, folder: Path) -> str:
    """Digest of all tensors of a model, and of its settings' files."""
    sums: list[list[Any]] = []
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content = hashlib.sha256(data.numpy().data).hexdigest()
        sums.append([name, str(tensor.dtype), list(tensor.shape), content])
    files = {file for pattern in SETTINGS for file in folder.glob(pattern)}
    for file in sorted(files):
        sums.append([file.name, hashlib.sha256(_without_incidental(file)).hexdigest()])
    return digest("in memory", sums)


def _without_incidental(file: Path) -> bytes:
    """A settings file without what says nothing of the model."""
    if file.name != CONFIG:
        return file.read_bytes()
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in INCIDENTAL:
        config.pop(name, None)
    return json.dumps(config, sort_keys=True).encode()
