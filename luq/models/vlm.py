"""A vision-language model as the pipeline sees it: decoder layers, their linears, and which tokens are image.

Works for any Hugging Face VLM whose decoder layers stand at a known path; adding a family is one line
in `LAYERS`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from luq import keys, registry
from luq.config import ModelConfig
from luq.errors import ModelError
from luq.models.processors import load_processor

LAYERS = {"llava": "model.language_model.layers", "qwen2_5_vl": "model.language_model.layers"}
GROUPS = (  # linears of a decoder layer that share an input, in the order of the forward pass
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
LINEARS = tuple(name for group in GROUPS for name in group)
PARTS = {  # of everything that is not a decoder linear's weight, by names of tensors
    "projector": r"multi_modal_projector|merger",
    "vision": r"vision_tower|visual",
    "embeddings": r"embed_tokens",
    "head": r"lm_head",
}
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
POCKET = Path(__file__).parent.parent / "pocket" / "weights"


@dataclass
class VLM:
    """A loaded model. `originals` keeps the 16-bit linears of every layer, so that any tier can be undone."""

    config: ModelConfig
    model: Any
    processor: Any
    layers: nn.ModuleList
    fingerprint: str
    originals: list[dict[str, Any]] = field(default_factory=list)
    standing: dict[int, str] = field(default_factory=dict)  # layer -> key of the packed layer that is installed

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def image_mask(self, input_ids: Tensor) -> Tensor:
        """True where a token stands for a piece of an image; same shape as input_ids."""
        token = getattr(self.model.config, "image_token_id", None)
        if token is None:
            token = self.model.config.image_token_index
        return torch.eq(input_ids, token)

    def original(self, layer: int) -> dict[str, Tensor]:
        """The 16-bit weights [out, in] of one layer's linears, by name."""
        return {name: linear.weight.detach() for name, linear in self.originals[layer].items()}

    def install(self, layer: int, modules: dict[str, nn.Module] | None, key: str = "") -> None:
        """Put modules in place of a layer's linears; None puts the 16-bit ones back. `key` is their artefact's."""
        for name, module in (modules or self.originals[layer]).items():
            parent, _, attribute = name.rpartition(".")
            setattr(self.layers[layer].get_submodule(parent), attribute, module)
        if modules:
            self.standing[layer] = key
        else:
            self.standing.pop(layer, None)

    def restore(self) -> None:
        """Put the 16-bit linears back wherever something else stands."""
        for layer in list(self.standing):
            self.install(layer, None)


def resolve_path(config: ModelConfig, download: bool = True) -> Path:
    """The local folder of a checkpoint: shipped, given, or fetched from the hub (or found in its cache)."""
    if config.path.startswith("pocket:"):
        name = config.path.removeprefix("pocket:")
        known = sorted(p.name for p in POCKET.iterdir() if p.is_dir()) if POCKET.exists() else []
        if name not in known:
            raise registry.unknown("pocket model", name, known)
        return POCKET / name
    folder = Path(config.path).expanduser()
    if folder.exists():
        return folder
    if folder.is_absolute() or config.path.startswith((".", "~")):
        raise ModelError(f"model.path={config.path}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.path, revision=config.revision, allow_patterns=FILES, local_files_only=not download))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path={config.path} is neither a local folder nor reachable on the hub: give a folder, or log in and "
            f"connect ({type(error).__name__})"
        ) from error


def check_files(folder: Path) -> None:
    """A ModelError that names the first file a checkpoint folder lacks."""
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).exists():
            raise ModelError(f"{folder / name} is missing: the folder is not a complete checkpoint")
    quantized = json.loads((folder / "config.json").read_text()).get("quantization_config")
    if quantized:
        raise ModelError(f"{folder} is already quantized ({quantized.get('quant_method')}): LUQ starts from 16-bit weights")
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.exists():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for shard in shards:
        if not (folder / shard).exists():
            raise ModelError(f"{folder / shard} is missing: copy or download the checkpoint again")
        try:
            with safe_open(folder / shard, framework="pt"):  # reads the header, and compares it with the file's size
                pass
        except SafetensorError as error:
            raise ModelError(f"{folder / shard} is damaged ({error}): copy or download the checkpoint again") from error
    if not any((folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json")):
        raise ModelError(f"{folder / 'preprocessor_config.json'} is missing: without it images cannot be prepared")


def fingerprint(folder: Path) -> str:
    """Key of the names, sizes and contents of config and weights (of files over 64 MiB: both ends)."""
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.jinja")])
    return keys.key([[file.name, *keys.file_digest(file)] for file in files])


class Outline(NamedTuple):
    """What can be known of a checkpoint without loading it."""

    fingerprint: str
    layers: int  # decoder layers of the language backbone


def outline(config: ModelConfig, download: bool = True) -> Outline:
    """The outline of a config's checkpoint; a ModelError if it is not complete, or (without download) not here."""
    folder = resolve_path(config, download)
    check_files(folder)
    told = json.loads((folder / "config.json").read_text())
    layers = told.get("text_config", told).get("num_hidden_layers") or told.get("num_hidden_layers")
    if layers is None:  # left out where it is the family's default
        from transformers import AutoConfig

        layers = AutoConfig.from_pretrained(folder).get_text_config().num_hidden_layers
    return Outline(fingerprint(folder), int(layers))


def part_of(name: str) -> str:
    """The ledger class of a tensor that is not a decoder linear's weight."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), "norms")


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of the language backbone, each with the seven linears."""
    family = getattr(model.config, "model_type", "?")
    if family not in LAYERS:
        raise registry.unknown("model family", family, LAYERS)
    try:
        layers = model.get_submodule(LAYERS[family])
    except AttributeError as error:
        raise ModelError(f"a {family} model should have its decoder layers at {LAYERS[family]}: {error}") from error
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise ModelError(f"{LAYERS[family]} of the {family} model is no list of decoder layers")
    for i, layer in enumerate(layers):
        for name in LINEARS:
            try:
                layer.get_submodule(name)
            except AttributeError as error:
                raise ModelError(f"decoder layer {i} has no linear {name}: {error}") from error
    return layers


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns that torchvision is missing, which nothing here needs."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_vlm(config: ModelConfig) -> VLM:
    """Load model (fp32 on CPU, the checkpoint's fp16 or bf16 on CUDA) and processor from a complete folder."""
    folder = resolve_path(config)
    check_files(folder)
    from transformers import AutoModelForImageTextToText

    device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    told = json.loads((folder / "config.json").read_text())
    wide = "bfloat16" in (told.get("dtype"), told.get("torch_dtype"))  # overflows in fp16
    dtype = torch.float32 if device == "cpu" else torch.bfloat16 if wide else torch.float16
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    model = model.to(device).eval().requires_grad_(False)
    layers = find_layers(model)
    originals = [{name: layer.get_submodule(name) for name in LINEARS} for layer in layers]
    with _quiet():
        processor = load_processor(folder, model.config.model_type, config)
    return VLM(config, model, processor, layers, fingerprint(folder), originals)
