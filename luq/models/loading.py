"""A checkpoint's model in memory, and the proof that it is the checkpoint on disk.

transformers draws what a file lacks at random, leaves out what a model has no place for, and says
so in a log. Here both are errors: after loading, every tensor of the model is one of the files',
and every one of the files' is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luq.errors import LuqError, ModelError, brief
from luq.models.families import part_of
from luq.models.processors import image_token_id, written_image_token
from luq.models.quiet import quiet
from luq.models.settings_files import CONFIG
from luq.models.weight_files import (
    OBSOLETE,
    check_adapter,
    plain_name,
    shards_of,
    shown,
    stored_tensors,
)


def load_config(folder: Path) -> Any:
    """A checkpoint's config as transformers reads it.

    Raises:
        ModelError: transformers takes some value for impossible.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a config makes of its values
        raise ModelError(
            f"{folder / CONFIG} cannot be used ({brief(error)}): copy it again"
        ) from error


def model_class(config: Any) -> Any:
    """The Auto class of a config: models that see images have one, language models another."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def load_skeleton(folder: Path) -> Any:
    """The model that a checkpoint's config describes, without its weights.

    Raises:
        ModelError: transformers cannot build it.
    """
    from accelerate import init_empty_weights

    config = load_config(folder)
    try:
        with init_empty_weights():
            return model_class(config).from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a config makes of a model
        raise _unusable(folder, error) from error


def load_model(folder: Path, dtype: torch.dtype, places: dict[str, str] | None = None) -> Any:
    """The model of a folder.

    Args:
        folder: a checkpoint, or a folder that LUQ exported.
        dtype: in which it is computed.
        places: the device of every module, or "disk"; None: all in memory.

    Raises:
        ModelError: names the tensors that are missing, left over or of another shape.
    """
    check_adapter(folder)
    shards_of(folder)  # not ambiguous
    options: dict[str, Any] = {} if places is None else {"device_map": places}
    auto = model_class(load_config(folder))
    try:
        with quiet():  # what its report says is said below
            model, report = auto.from_pretrained(
                folder,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are in the report, which names them
                output_loading_info=True,
                **options,
            )
    except LuqError:
        raise
    except Exception as error:  # whatever a config makes of a model
        raise _unusable(folder, error) from error
    _check_report(folder, report)
    _check_shapes(folder, model)
    return model


def _unusable(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{folder} cannot be loaded ({brief(error)}): its config.json does not fit this version "
        "of transformers, or not its weights; copy it again"
    )


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    """A ModelError unless model and files have the same tensors.

    Args:
        folder: the checkpoint.
        report: what transformers says of loading it. Tied weights that one tensor of the files
            fills are not missing there, and buffers that models make for themselves not left over.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} tensors that its model needs: {shown(missing)}. Copy "
            "or download the checkpoint again, or give the config.json that belongs to it"
        )
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        raise _wrong_shape(folder, name, stored, expected)
    unexpected = sorted(report["unexpected_keys"])
    if unexpected:
        raise ModelError(
            f"{folder} holds {len(unexpected)} tensors that its model has no place for: "
            f"{shown(unexpected)}. Give the config.json that belongs to the weights, or delete "
            "the tensors if they are not the model's"
        )
    if report["error_msgs"]:
        raise ModelError(f"{folder} cannot be loaded: {report['error_msgs'][0]}")


def _check_shapes(folder: Path, model: Any) -> None:
    """A ModelError unless tensors have the shapes that the model makes for them.

    The report leaves this out for tensors that stay on disk.
    """
    expected_shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        expected_shapes[plain_name(name)] = tuple(tensor.shape)
    for name, stored in stored_tensors(folder).items():
        shape = expected_shapes.get(plain_name(name), stored.shape)
        if stored.shape != shape and not OBSOLETE.search(name):
            raise _wrong_shape(folder, name, stored.shape, shape)


def _wrong_shape(
    folder: Path, name: str, stored: Sequence[int], expected: Sequence[int]
) -> ModelError:
    return ModelError(
        f"{folder}: {name} has the shape {list(stored)} in the files, but config.json makes it "
        f"{list(expected)}: give the config.json that belongs to the weights"
    )


def check_tokens(folder: Path, model: Any, processor: Any) -> None:
    """Refuse a tokenizer that is another model's.

    Raises:
        ModelError: it has tokens that the model has no embedding for, or another one for images.
    """
    rows = int(model.config.get_text_config().vocab_size)
    largest = max(processor.tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"{folder}: its tokenizer has a token {largest}, but the model has embeddings for "
            f"{rows} (vocab_size in {CONFIG}): copy the tokenizer's files again"
        )
    if getattr(processor, "image_processor", None) is None:
        return
    written = written_image_token(processor)
    expected = image_token_id(model.config, processor)
    if written != expected:
        token = processor.tokenizer.convert_ids_to_tokens(written)
        raise ModelError(
            f"{folder}: its processor writes images as token {written} ({token}), "
            f"but the model takes token {expected} for them (image_token_id in {CONFIG}): copy "
            "both files again"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinite values, from its least and its largest one."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    least, largest = tensor.aminmax()  # NaN if there is one
    return bool(least.isfinite() & largest.isfinite())


def check_values(folder: Path, model: Any, dtype: torch.dtype) -> None:
    """Refuse a model with values that are no numbers, in its files or in the type it is run in.

    A model in memory is looked at there. Of one that stays on disk the files are read once.

    Raises:
        ModelError: names the tensor and the file.
    """
    tensors: dict[str, Tensor] = model.state_dict()
    is_in_memory = all(tensor.device.type != "meta" for tensor in tensors.values())
    if is_in_memory and all(is_finite(tensor) for tensor in tensors.values()):
        return
    _check_files_values(folder, dtype)
    for name, tensor in tensors.items():
        if tensor.device.type != "meta" and not is_finite(tensor):
            raise ModelError(
                f"{folder}: {name} has NaN or infinite values in memory, though its file has not: "
                "check the memory of the device"
            )


def _check_files_values(folder: Path, dtype: torch.dtype) -> None:
    from safetensors import safe_open

    for shard in shards_of(folder):
        with safe_open(folder / shard, framework="pt") as file:
            for name in sorted(file.keys()):
                if not OBSOLETE.search(name):
                    _check_value(folder / shard, name, file.get_tensor(name), dtype)


def _check_value(file: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    extremes = torch.stack(tensor.aminmax())
    if not bool(extremes.isfinite().all()):
        raise ModelError(
            f"{file}: {name} holds NaN or infinite values: copy or download the checkpoint again"
        )
    if not bool(extremes.to(dtype).isfinite().all()):
        largest = float(extremes.abs().max())
        stored = str(tensor.dtype).removeprefix("torch.")
        computed = str(dtype).removeprefix("torch.")
        raise ModelError(
            f"{file}: {name} holds {largest:g} in {stored}, which is infinite in {computed}, the "
            "type that the model is run in: model.device=cpu without model.stream runs it in "
            "float32; dtype=bfloat16 in config.json lets others run it in bfloat16"
        )


def check_tied(folder: Path, model: Any) -> None:
    """Refuse a head and embeddings that the config says are the same, when they are not.

    transformers 5 keeps both then, other versions and programs overwrite the head: such folders
    are one model here and another one elsewhere.

    Raises:
        ModelError: names both tensors.
    """
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    from safetensors import safe_open

    stored = stored_tensors(folder)
    names = {part_of(name): name for name in stored}  # the head and the embeddings are one each
    head = names.get("head")
    embeddings = names.get("embeddings")
    if head is None:
        return
    if embeddings is None:
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ModelError(
                f"{folder} holds {head} alone for head and embeddings, which cannot be read from "
                "disk for both: model.stream=false"
            )
        return
    tensors: list[Tensor] = []
    for name in (head, embeddings):
        with safe_open(stored[name].file, framework="pt") as file:
            tensors.append(file.get_tensor(name))
    if not torch.equal(tensors[0], tensors[1]):
        raise ModelError(
            f"{folder}: config.json says tie_word_embeddings=true, but {head} is not {embeddings}: "
            f"set it to false, or delete {head} if it is not used"
        )
