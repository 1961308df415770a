"""A checkpoint as a value, and its files: where they are, whether they are whole, their digest.

Imports neither torch nor transformers: what is known here is known without loading a model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luq.config import ModelConfig
from luq.config.checks import VOLATILE
from luq.errors import ConfigError, ModelError
from luq.models import devices
from luq.models.families import decoder_weight, part_of
from luq.models.settings_files import (
    CONFIG,
    check_asking,
    check_settings,
    read_config,
    sees_images,
    text_settings,
)
from luq.models.weight_files import (
    DTYPES,
    StoredTensor,
    check_adapter,
    check_weights,
    plain_name,
    shards_of,
    stored_tensors,
)
from luq.plugins import plugin
from luq.store.digests import file_digest
from luq.store.keys import Identified, digest

FLOAT_BITS = 16  # of a number that no tier is given
WEIGHT = ".weight"  # what a module's weight is called, after the module's name
SETTINGS = ["*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Asking:
    """How a question and its image become tokens and pixels, beside the checkpoint's own files."""

    system_prompt: str = ""
    do_pad: bool | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    backend: str = ""  # what resizes images: pil or torchvision


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(Identified):
    """A model as it stands in keys: all bytes of its files, the type it is computed in, and how it
    is asked. `weights` is what stands in the keys of artefacts that ask nothing.
    """

    digest: str
    dtype: str  # float32, float16 or bfloat16
    config: ModelConfig = field(metadata=VOLATILE)
    folder: Path = field(metadata=VOLATILE)
    layers: int = field(metadata=VOLATILE)  # decoder layers of the language backbone
    sees_images: bool = field(default=True, metadata=VOLATILE)  # else it is a language model alone
    commit: str | None = field(default=None, metadata=VOLATILE)  # of the hub's repository
    # Whether the embeddings are the head's weight, too; None: the folder's files say it.
    ties_head: bool | None = field(default=None, metadata=VOLATILE)
    asking: Asking = Asking()

    @property
    def weights(self) -> "Checkpoint":
        """The same checkpoint, however it is asked."""
        return replace(self, asking=Asking())

    @property
    def has_weight_files(self) -> bool:
        """Whether the weights lie in the folder: those of a model in memory do not."""
        return any(self.folder.glob("*.safetensors"))

    @property
    def has_tied_head(self) -> bool:
        """Whether embeddings and head are one table."""
        return is_tied(self.folder) if self.ties_head is None else self.ties_head


def checkpoint(config: ModelConfig, download: bool = True) -> Checkpoint:
    """The checkpoint that a config names.

    Args:
        config: path or hub id, revision, device, and how the model is asked.
        download: whether what is not here may be fetched from the hub.

    Raises:
        ModelError: a file is missing or damaged, the folder is of another kind, or (without
            download) nothing is here.
    """
    folder = resolve_path(config, download)
    check_files(folder)
    check_asking(folder)
    in_cache_of_hub = folder.parent.name == "snapshots"
    return Checkpoint(
        digest=fingerprint(folder),
        dtype=compute_dtype(folder, devices.resolve(config.device), config.stream),
        asking=asking_of(config),
        config=config,
        folder=folder,
        layers=count_layers(folder),
        sees_images=sees_images(read_config(folder)),
        commit=folder.name if in_cache_of_hub else None,
    )


def asking_of(config: ModelConfig) -> Asking:
    """How a config's model is asked on this machine."""
    return Asking(
        config.system_prompt,
        config.do_pad,
        config.min_pixels,
        config.max_pixels,
        "torchvision" if find_spec("torchvision") else "pil",
    )


def resolve_path(config: ModelConfig, download: bool = True) -> Path:
    """The local folder of a checkpoint: a plug-in's, given, or fetched from the hub (or its
    cache).
    """
    source, colon, name = config.path.partition(":")
    shipped = plugin(source) if colon else None
    if shipped is not None:
        return shipped.model_folder(name)
    folder = Path(config.path).expanduser()
    if folder.is_dir() and config.path:
        return folder
    if folder.exists():
        raise ModelError(f"model.path={config.path!r} is no folder: give a checkpoint's folder")
    if folder.is_absolute() or config.path.startswith((".", "~")):
        raise ModelError(f"model.path={config.path}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        fetched = snapshot_download(
            config.path,
            revision=config.revision,
            allow_patterns=[*SETTINGS, "*.safetensors"],
            local_files_only=not download,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path={config.path} is neither a local folder nor reachable on the hub: give a "
            f"folder, or log in and connect ({type(error).__name__})"
        ) from error
    return Path(fetched)


def check_files(folder: Path) -> None:
    """Refuse a folder that cannot be loaded as the checkpoint that it says it is.

    What settings and headers say is checked here, in a blink. That the model takes all tensors and
    needs no others is known when it is loaded.

    Raises:
        ModelError: names the first file, setting or tensor that is missing, damaged, of another
            layout or already quantized.
    """
    check_adapter(folder)
    if not (folder / CONFIG).exists():
        shards_of(folder)  # says what a folder without weights is
    check_settings(folder)
    check_weights(folder, read_config(folder))


def fingerprint(folder: Path, anew: bool = False) -> str:
    """Digest of the names and of all bytes of a checkpoint's files: the weights that transformers
    takes, and all settings.

    Args:
        folder: of the checkpoint.
        anew: whether all bytes are read now, whatever is remembered of files that did not change:
            whoever ships them wants to know.
    """
    files = {folder / shard for shard in shards_of(folder)}
    for pattern in SETTINGS:
        files.update(folder.glob(pattern))
    content: list[list[Any]] = []
    for file in sorted(files):
        size, sha256 = file_digest(file, anew)
        content.append([file.name, size, sha256])
    return digest("checkpoint", content)


def count_layers(folder: Path) -> int:
    """Decoder layers of the language backbone."""
    layers = text_settings(read_config(folder)).get("num_hidden_layers")
    if layers is None:  # left out where it is the family's default
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        layers = config.get_text_config().num_hidden_layers
    return int(layers)


def is_tied(folder: Path) -> bool:
    """Whether a model's embeddings are its head's weight, too."""
    if not any(part_of(name) == "head" for name in stored_tensors(folder)):
        return True
    tied = read_config(folder).get("tie_word_embeddings")
    if tied is None:  # left out where it is the family's default
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tied = config.tie_word_embeddings
    return bool(tied)


def context_length(folder: Path) -> int | None:
    """Tokens of the longest sequence that the language backbone is made for; None if not said."""
    config = read_config(folder)
    name = "max_position_embeddings"
    length = text_settings(config).get(name) or config.get(name)
    is_number = isinstance(length, int) and not isinstance(length, bool)
    return length if is_number else None


def check_context(source: Checkpoint, lengths: dict[str, int]) -> None:
    """A ConfigError if a text window (setting -> tokens) is longer than the model was made for."""
    context = context_length(source.folder)
    for setting, length in lengths.items():
        if context is not None and length > context:
            raise ConfigError(
                f"{setting}={length} is not possible: {source.config.name} has a context of "
                f"{context} tokens (max_position_embeddings in {source.folder / CONFIG}). Use "
                f"{setting}={context} or less"
            )


def linear_shapes(folder: Path) -> dict[tuple[int, str], tuple[int, int]]:
    """Shapes [out, in] of the decoder linears by layer and name, from the headers."""
    shapes: dict[tuple[int, str], tuple[int, int]] = {}
    for name, tensor in stored_tensors(folder).items():
        place = decoder_weight(name)
        if place is not None and len(tensor.shape) == 2:
            shapes[place] = (tensor.shape[0], tensor.shape[1])
    return shapes


def linear_tensors(source: Checkpoint, layer: int) -> dict[str, str]:
    """The names of the weights of a decoder layer's linears in a checkpoint's files, by linear;
    none of a model in memory.
    """
    names: dict[str, str] = {}
    for name, tensor in _stored(source).items():
        place = decoder_weight(name)
        if place is not None and place[0] == layer and len(tensor.shape) == 2:
            names[place[1]] = name
    return names


def half_linears(source: Checkpoint) -> set[tuple[int, str]]:
    """Layer and name of the decoder linears of which the files hold the very fp16 numbers that a
    16-bit tier stores, by the headers.
    """
    if source.dtype == "bfloat16":
        return set()  # in which the weights have been rounded
    tensors = _stored(source)
    places: set[tuple[int, str]] = set()
    for name, tensor in tensors.items():
        place = decoder_weight(name)
        if place is not None and tensor.dtype == "F16":
            places.add(place)
    return places


def module_tensors(source: Checkpoint) -> dict[str, str]:
    """The names of the weights of all modules in a checkpoint's files, by the modules' plain names;
    none of a model in memory.
    """
    names: dict[str, str] = {}
    for name in _stored(source):
        if name.endswith(WEIGHT):
            names[plain_name(name).removesuffix(WEIGHT)] = name
    return names


def _stored(source: Checkpoint) -> dict[str, StoredTensor]:
    return stored_tensors(source.folder) if source.has_weight_files else {}


def part_widths(folder: Path, part: str) -> set[int]:
    """Weights of a row of the matrices that a part beside the decoder's linears has, from the
    headers; those of a tower's position embeddings, which are no linear's, are left out.
    """
    widths: set[int] = set()
    for name, tensor in stored_tensors(folder).items():
        is_linear = decoder_weight(name) is not None
        is_table = part in ("vision", "projector") and "embed" in name
        is_matrix = len(tensor.shape) == 2 and name.endswith(".weight")
        if part_of(name) == part and is_matrix and not is_linear and not is_table:
            widths.add(tensor.shape[1])
    return widths


def least_rest_bytes(folder: Path, least_bits: Mapping[str, float]) -> float:
    """Bytes that all but the decoder's linears takes at least, from the headers.

    A head that may be tied to the embeddings is not counted, nor is what may be no parameter.

    Args:
        folder: of the checkpoint.
        least_bits: bits per weight of the parts that are packed; others have 16 bits.
    """
    bits = 0.0
    for part, (matrix_weights, other_weights) in _rest_counts(folder).items():
        # that all matrices of a part are packed is the least: position embeddings are not
        bits += least_bits.get(part, FLOAT_BITS) * matrix_weights + FLOAT_BITS * other_weights
    return bits / 8


def has_matrices(folder: Path, part: str) -> bool:
    """Whether a part beside the decoder's linears has matrices, by the headers."""
    matrices, _ = _rest_counts(folder).get(part, (0, 0))
    return matrices > 0


def _rest_counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Weights of the rest by part: those in matrices, and the other ones."""
    config = read_config(folder)
    tied = [part.get("tie_word_embeddings") for part in (config, text_settings(config))]
    has_head = False in tied and True not in tied
    counts: dict[str, tuple[int, int]] = {}
    for name, tensor in stored_tensors(folder).items():
        is_linear = decoder_weight(name) is not None and len(tensor.shape) == 2
        is_doubtful = "lm_head" in name and not has_head
        if is_linear or is_doubtful or not name.endswith((".weight", ".bias")):
            continue
        part = part_of(name)
        matrix_weights, other_weights = counts.get(part, (0, 0))
        count = math.prod(tensor.shape)
        if len(tensor.shape) == 2:
            counts[part] = matrix_weights + count, other_weights
        else:
            counts[part] = matrix_weights, other_weights + count
    return counts


def stored_dtype(folder: Path) -> str:
    """The floating type that a checkpoint says it is stored in, or that its first tensor has."""
    config = read_config(folder)
    declared_dtype = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    if declared_dtype in DTYPES.values():
        return declared_dtype
    for tensor in stored_tensors(folder).values():
        if tensor.dtype in DTYPES:
            return DTYPES[tensor.dtype]
    return "float32"


def compute_dtype(folder: Path, device: str, stream: bool = False) -> str:
    """The type in which a folder's model is run.

    fp32 on a CPU; on CUDA fp16, or bf16 where the checkpoint has that, since its range overflows
    in fp16. A streamed model is run in the type that it is stored in, but for fp16 on a CPU: that
    has no units for it, and takes three times as long as fp32.
    """
    stored = stored_dtype(folder)
    if stream and not (device == "cpu" and stored == "float16"):
        return stored
    if device == "cpu":
        return "float32"
    return "bfloat16" if stored == "bfloat16" else "float16"
