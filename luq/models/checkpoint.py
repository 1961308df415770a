"""A checkpoint as a value, and its files: where they are, whether they are whole, their digest.

Imports neither torch nor transformers: what is known here is known without loading a model.
"""

import json
import math
import re
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luq.config import ModelConfig
from luq.config.checks import VOLATILE
from luq.errors import ModelError
from luq.models import devices
from luq.plugins import plugin
from luq.store.digests import file_digest
from luq.store.keys import Identified, digest

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FIRST_LAYER = re.compile(r"^(?:.*\.)?layers\.0\.((?:self_attn|mlp)\.\w+_proj)\.weight$")
ANY_LAYER = re.compile(r"^(?:.*\.)?layers\.\d+\.(?:self_attn|mlp)\.\w+_proj\.weight$")
TOWER = re.compile(r"vision|visual|audio")  # towers have layers and attention of their own
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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
    commit: str | None = field(default=None, metadata=VOLATILE)  # of the hub's repository
    asking: Asking = Asking()

    @property
    def weights(self) -> "Checkpoint":
        """The same checkpoint, however it is asked."""
        return replace(self, asking=Asking())


def checkpoint(config: ModelConfig, download: bool = True) -> Checkpoint:
    """The checkpoint that a config names.

    Args:
        config: path or hub id, revision, device, and how the model is asked.
        download: whether what is not here may be fetched from the hub.

    Raises:
        ModelError: a file is missing or damaged, or (without download) nothing is here.
    """
    folder = resolve_path(config, download)
    check_files(folder)
    asking = Asking(
        config.system_prompt,
        config.do_pad,
        config.min_pixels,
        config.max_pixels,
        "torchvision" if find_spec("torchvision") else "pil",
    )
    in_cache_of_hub = folder.parent.name == "snapshots"
    return Checkpoint(
        digest=fingerprint(folder),
        dtype=compute_dtype(folder, devices.resolve(config.device), config.stream),
        asking=asking,
        config=config,
        folder=folder,
        layers=count_layers(folder),
        commit=folder.name if in_cache_of_hub else None,
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
    if folder.exists():
        return folder
    if folder.is_absolute() or config.path.startswith((".", "~")):
        raise ModelError(f"model.path={config.path}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(
            config.path,
            revision=config.revision,
            allow_patterns=FILES,
            local_files_only=not download,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path={config.path} is neither a local folder nor reachable on the hub: give a "
            f"folder, or log in and connect ({type(error).__name__})"
        ) from error
    return Path(fetched)


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json; a ModelError if it is no JSON object."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object: copy it again")
    return content


def shards_of(folder: Path) -> list[str]:
    """The names of a checkpoint's weight files, in the order of their names."""
    index = folder / INDEX
    if not index.exists():
        return [SINGLE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read ({error}): copy it again") from error
    return sorted(names)


def check_files(folder: Path) -> None:
    """A ModelError that names the first file that a checkpoint folder lacks, or that is damaged."""
    from safetensors import SafetensorError, safe_open

    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).exists():
            raise ModelError(f"{folder / name} is missing: the folder is not a complete checkpoint")
    quantized = read_config(folder).get("quantization_config")
    if quantized:
        method = quantized.get("quant_method")
        raise ModelError(
            f"{folder} is already quantized ({method}): LUQ starts from 16-bit weights"
        )
    for shard in shards_of(folder):
        if not (folder / shard).exists():
            raise ModelError(f"{folder / shard} is missing: copy or download the checkpoint again")
        try:
            # Opening reads the header, and compares it with the file's size.
            with safe_open(folder / shard, framework="np"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"{folder / shard} is damaged ({error}): copy or download the checkpoint again"
            ) from error
    names = ("processor_config.json", "preprocessor_config.json")
    if not any((folder / name).exists() for name in names):
        missing = folder / "preprocessor_config.json"
        raise ModelError(f"{missing} is missing: without it images cannot be prepared")


def fingerprint(folder: Path) -> str:
    """Digest of the names and of all bytes of a checkpoint's files."""
    files: list[Path] = []
    for pattern in FILES:
        files += folder.glob(pattern)
    content = [[file.name, *file_digest(file)] for file in sorted(set(files))]
    return digest("checkpoint", content)


def count_layers(folder: Path) -> int:
    """Decoder layers of the language backbone."""
    config = read_config(folder)
    text = config.get("text_config")
    layers = text.get("num_hidden_layers") if isinstance(text, dict) else None
    layers = layers or config.get("num_hidden_layers")
    if layers is None:  # left out where it is the family's default
        from transformers import AutoConfig

        layers = AutoConfig.from_pretrained(folder).get_text_config().num_hidden_layers
    return int(layers)


def context_length(folder: Path) -> int | None:
    """Tokens of the longest sequence that the language backbone is made for; None if not said."""
    config = read_config(folder)
    text = config.get("text_config")
    of_text = text.get("max_position_embeddings") if isinstance(text, dict) else None
    length = of_text or config.get("max_position_embeddings")
    is_number = isinstance(length, int) and not isinstance(length, bool)
    return length if is_number else None


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Shapes [out, in] of the linears of the first decoder layer, by name, from the headers.

    A tensor of another rank is left for the loading to report.
    """
    from safetensors import safe_open

    shapes: dict[str, tuple[int, int]] = {}
    for shard in shards_of(folder):
        with safe_open(folder / shard, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                match = FIRST_LAYER.match(name)
                if match and not TOWER.search(name):
                    shape = file.get_slice(name).get_shape()
                    if len(shape) == 2:
                        shapes[match[1]] = (shape[0], shape[1])
    return shapes


def rest_weights(folder: Path) -> int:
    """How many numbers stay in 16 bit at least: all but the decoder's linears, from the headers.

    A head that may be tied to the embeddings is not counted, nor is what may be no parameter.
    """
    from safetensors import safe_open

    config = read_config(folder)
    text = config.get("text_config")
    tied = [part.get("tie_word_embeddings") for part in (config, text) if isinstance(part, dict)]
    has_head = False in tied and True not in tied
    count = 0
    for shard in shards_of(folder):
        with safe_open(folder / shard, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                is_linear = ANY_LAYER.match(name) and not TOWER.search(name)
                is_doubtful = "lm_head" in name and not has_head
                if not is_linear and not is_doubtful and name.endswith((".weight", ".bias")):
                    count += math.prod(file.get_slice(name).get_shape())
    return count


def stored_dtype(folder: Path) -> str:
    """The floating type that a checkpoint says it is stored in, or that its first tensor has."""
    config = read_config(folder)
    said = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    if said in DTYPES.values():
        return said
    from safetensors import safe_open

    with safe_open(folder / shards_of(folder)[0], framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            kind = file.get_slice(name).get_dtype()
            if kind in DTYPES:
                return DTYPES[kind]
    return "float32"


def compute_dtype(folder: Path, device: str, stream: bool = False) -> str:
    """The type in which a folder's model is run.

    fp32 on a CPU; on CUDA fp16, or bf16 where the checkpoint has that, since its range overflows
    in fp16. A streamed model is run in the type that it is stored in.
    """
    if stream:
        return stored_dtype(folder)
    if device == "cpu":
        return "float32"
    return "bfloat16" if stored_dtype(folder) == "bfloat16" else "float16"
