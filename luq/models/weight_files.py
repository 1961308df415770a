"""The weight files of a checkpoint: which they are, and what their headers say.

The files are those that transformers takes, so that what is digested, packed and exported is what
is loaded. Tensors are not read here: a header costs milliseconds, whatever the size of its file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from luq.config.checks import is_plain_name
from luq.errors import ModelError
from luq.models.families import LLAVA
from luq.models.settings_files import Settings, read_settings, section, text_settings
from luq.store.digests import read_once

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# Parts of a set of files: they belong to an index. The second kind is what transformers saves from
# distributed training, and takes before all others.
PART = re.compile(r"^model-\d+-of-\d+\.safetensors$|^shard-\d+-model-\d+-of-\d+\.safetensors$")
VARIANT = re.compile(r"^model\.[^.]+(-\d+-of-\d+)?\.safetensors(\.index\.json)?$")
PICKLES = ("*.bin", "*.pt", "*.ckpt")
SHOWN = 3  # names that an error message shows

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What a quantizer stores beside a linear's codes: bitsandbytes, GPTQ and AWQ, fp8.
QUANTIZED = re.compile(
    r"\.(SCB|qweight|qzeros|g_idx|scales|weight_scale|weight_scale_inv|weight_packed|absmax"
    r"|quant_map|input_scale)$|\.(quant_state|absmax|nested_absmax)\."
)
# Buffers of older checkpoints that models make for themselves: transformers leaves them out, too.
OBSOLETE = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")
# Checkpoints of several versions of transformers have one tensor under several names.
WRAPPERS = {"model", "language_model", "vision_model"}
# What a tensor of a decoder layer, and of a vision tower's, is called without those.
DECODER = re.compile(r"^layers\.(\d+)\.(.+)$")
LLAVA_TOWER = re.compile(r"^vision_tower\.encoder\.layers\.(\d+)\.(.+)$")
QWEN_TOWER = re.compile(r"^visual\.blocks\.(\d+)\.(.+)$")
# Layer -> tensor within it (mlp.up_proj.weight) -> its name in the files.
Stack = dict[int, dict[str, str]]


class StoredTensor(NamedTuple):
    """What a header says of a tensor."""

    file: Path
    dtype: str  # as safetensors names it: F16, BF16, I8 ...
    shape: tuple[int, ...]


def shown(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    ending = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + ending


def shards_of(folder: Path) -> list[str]:
    """The names of the weight files that transformers takes, in the order of their names.

    Raises:
        ModelError: there are none, they are ambiguous, or the index cannot be trusted.
    """
    indexed = list(dict.fromkeys(_weight_map(folder).values()))
    parts = {file.name for file in folder.glob("*.safetensors") if PART.match(file.name)}
    is_single = (folder / SINGLE).exists()
    rivals = sorted({*indexed, *parts} - {SINGLE})
    if is_single and rivals:
        raise ModelError(
            f"{folder} holds {SINGLE} and other weights beside it ({shown(rivals)}), of which "
            f"transformers takes one and leaves the other: delete what is not the model, and "
            f"{INDEX} with it if that is the other files"
        )
    if is_single:
        return [SINGLE]
    unlisted = sorted(parts.difference(indexed))
    if unlisted and indexed:
        raise ModelError(
            f"{folder} holds weights that {INDEX} does not name ({shown(unlisted)}): delete them, "
            "or copy the checkpoint again"
        )
    if not indexed:
        raise _without_weights(folder)
    for name in indexed:
        if not (folder / name).exists():
            raise ModelError(f"{folder / name} is missing: copy or download the checkpoint again")
    return sorted(indexed)


def _weight_map(folder: Path) -> Mapping[str, str]:
    """Tensor -> file, as the index says; empty where there is none."""
    index = folder / INDEX
    return _weight_map_of(index) if index.exists() else {}


@read_once
def _weight_map_of(index: Path) -> Mapping[str, str]:
    """Tensor -> file, as an index says."""
    weight_map = read_settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map: copy it again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not is_plain_name(name):
            raise ModelError(
                f"{index}: {tensor} is said to be in {name!r}, which is no file of the folder: "
                "copy or download the checkpoint again"
            )
        if not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {tensor} is said to be in {name}, no safetensors file")
    return weight_map


def _without_weights(folder: Path) -> ModelError:
    """What to do with a folder that holds no weights that LUQ reads."""
    missing = f"{folder / SINGLE} is missing"
    names = sorted(file.name for file in folder.iterdir())
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if any(name.endswith(".gguf") for name in names):
        return ModelError(
            f"{missing}, the folder holds GGUF files: LUQ starts from 16-bit weights; take the "
            "checkpoint that they were made from"
        )
    if any(name.startswith("consolidated.") for name in names):
        return ModelError(
            f"{missing}, the folder holds weights in their publisher's own layout "
            "(consolidated.*): take the checkpoint of transformers' layout (its name often ends "
            "in -hf)"
        )
    if pickles:
        return ModelError(
            f"{missing}, the folder holds {shown(pickles)}: LUQ reads safetensors alone, since "
            "such files can run code. Where you trust them, load the model with transformers and "
            "save it with model.save_pretrained(NEW_FOLDER), which writes safetensors"
        )
    variants = [name for name in names if VARIANT.match(name)]
    if variants:
        return ModelError(
            f"{missing}, the folder holds a variant ({shown(variants)}), which transformers takes "
            f"only when it is told to: rename it to {SINGLE}, or {INDEX} and what it names"
        )
    parts = [name for name in names if PART.match(name)]
    if parts:
        return ModelError(
            f"{folder / INDEX} is missing, which says what is in {shown(parts)}: copy it, or "
            "download the checkpoint again"
        )
    return ModelError(f"{missing}: copy or download the checkpoint again")


def check_adapter(folder: Path) -> None:
    """A ModelError if a folder is an adapter, or has one beside its weights.

    transformers switches such an adapter on when it loads the folder. Its weights are in none of
    the linears that are packed.
    """
    if not folder.is_dir():
        return
    adapters = sorted(file.name for file in folder.glob("adapter_*"))
    if not adapters:
        return
    remedy = (
        "merge it first (peft: PeftModel.from_pretrained(model, adapter).merge_and_unload(), then "
        "save_pretrained and the processor's files)"
    )
    if (folder / "config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter beside the weights ({shown(adapters)}): {remedy}, or "
            "delete it"
        )
    base = "its base model"
    if (folder / ADAPTER_CONFIG).exists():
        base = read_settings(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or base
    raise ModelError(f"{folder} is an adapter of {base}, not a model: {remedy}")


@read_once
def _header(file: Path) -> Mapping[str, StoredTensor]:
    """What the header of a weight file says of its tensors, by name."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, StoredTensor] = {}
    try:
        # Opening reads the header, and compares it with the file's size.
        with safe_open(file, framework="np") as handle:
            for name in handle.keys():  # noqa: SIM118 (no mapping)
                part = handle.get_slice(name)
                tensors[name] = StoredTensor(file, part.get_dtype(), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is damaged ({error}): copy or download the checkpoint again"
        ) from error
    return tensors


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """What the weight files hold, by name.

    Raises:
        ModelError: a file is missing or damaged, or the index says otherwise than the files.
    """
    shards = shards_of(folder)
    places = {} if shards == [SINGLE] else _weight_map(folder)
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        for name, tensor in _header(folder / shard).items():
            if places and places.get(name) != shard:
                listed_place = f"in {places[name]}" if name in places else "nowhere"
                raise ModelError(
                    f"{folder / shard} holds {name}, which is {listed_place} by {INDEX}: copy or "
                    "download the checkpoint again"
                )
            tensors[name] = tensor
    for name, shard in places.items():
        if name not in tensors:
            raise ModelError(
                f"{folder / shard} does not hold {name}, which {INDEX} says is there: copy or "
                "download the checkpoint again"
            )
    return tensors


def check_weights(folder: Path, config: Settings) -> None:
    """What headers say of a checkpoint: a ModelError if it is quantized or not the config's.

    Args:
        folder: the checkpoint.
        config: its config.json.
    """
    tensors = stored_tensors(folder)
    names: dict[str, str] = {}  # plain name -> name in the files
    for name, tensor in tensors.items():
        if OBSOLETE.search(name):
            continue
        if QUANTIZED.search(name) or tensor.dtype not in DTYPES:
            raise ModelError(
                f"{tensor.file} is quantized: {name} has the type {tensor.dtype}; LUQ starts from "
                "16-bit weights"
            )
        plain = plain_name(name)
        if plain in names:
            raise ModelError(
                f"{folder} holds one tensor under two names, {names[plain]} and {name}: delete the "
                "one that is not the model's"
            )
        names[plain] = name
    decoder = _stack(names, DECODER)
    _check_count(folder, decoder, text_settings(config), "num_hidden_layers")
    for layers in _by_kind(decoder, text_settings(config)):
        _check_alike(tensors, layers)
    is_llava = config.get("model_type") == LLAVA
    tower = _stack(names, LLAVA_TOWER if is_llava else QWEN_TOWER)
    depth = "num_hidden_layers" if is_llava else "depth"
    _check_count(folder, tower, section(config, "vision_config"), depth)
    _check_alike(tensors, tower)


def plain_name(name: str) -> str:
    """A tensor's name without the prefixes that differ between versions of transformers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _stack(names: dict[str, str], pattern: re.Pattern[str]) -> Stack:
    """The tensors of a stack of layers, of those with these plain names.

    Args:
        names: plain name -> name in the files.
        pattern: matches plain names of the stack: the layer's index, and the name within it.
    """
    stack: Stack = {}
    for plain, name in names.items():
        match = pattern.match(plain)
        if match:
            stack.setdefault(int(match[1]), {})[match[2]] = name
    return stack


def _check_count(folder: Path, stack: Stack, settings: Settings, setting: str) -> None:
    """A ModelError unless the files hold the layers that the config says.

    Where it says no number, or where no layer has a name that is known here, loading the model
    tells what is missing.
    """
    layers = settings.get(setting)
    if not stack or type(layers) is not int:
        return
    for expected, index in enumerate(sorted(stack)):
        if index != expected:
            name = next(iter(stack[index].values()))
            raise ModelError(
                f"{folder} lacks layer {expected}, but holds layer {index} ({name}): copy or "
                "download the checkpoint again"
            )
    if len(stack) != layers:
        name = next(iter(stack[len(stack) - 1].values()))
        raise ModelError(
            f"{folder}: config.json says {setting}={layers}, but the weight files hold "
            f"{len(stack)} layers (the last has {name}): give the config that belongs to the "
            "weights, or copy the checkpoint again"
        )


def _by_kind(decoder: Stack, settings: Settings) -> list[Stack]:
    """Decoder layers with those of their kind: kinds may have other linears, or other heads.

    Args:
        decoder: all layers.
        settings: what a config says of the language backbone.
    """
    layer_types = settings.get("layer_types")
    if not isinstance(layer_types, list):
        layer_types = []
    crossing = settings.get("cross_attention_layers") or []
    shared_count = settings.get("num_kv_shared_layers") or 0  # of the last layers
    kinds: dict[tuple[str, bool, bool], Stack] = {}
    for index, layer in decoder.items():
        layer_type = str(layer_types[index]) if index < len(layer_types) else ""
        is_shared = index >= len(decoder) - shared_count
        kinds.setdefault((layer_type, index in crossing, is_shared), {})[index] = layer
    return list(kinds.values())


def _check_alike(tensors: dict[str, StoredTensor], stack: Stack) -> None:
    """A ModelError unless all layers of a stack have the same tensors, of the same shapes."""
    examples: dict[str, str] = {}  # tensor within a layer -> its name in the first that has it
    for layer in stack.values():
        examples = layer | examples
    for index, layer in stack.items():
        for within, example in examples.items():
            if within not in layer:
                name = re.sub(r"\.\d+\.", f".{index}.", example, count=1)
                raise ModelError(
                    f"{tensors[example].file.parent} lacks the tensor {name}, which other layers "
                    "have: copy or download the checkpoint again"
                )
            name = layer[within]
            if tensors[name].shape != tensors[example].shape:
                raise ModelError(
                    f"{tensors[name].file}: {name} has the shape {list(tensors[name].shape)}, but "
                    f"{example} has {list(tensors[example].shape)}: copy or download the "
                    "checkpoint again"
                )
