"""A checkpoint's files: where they are, whether they are whole, and what can be known of them without loading them."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from luq.config import ModelConfig
from luq.errors import ModelError, unknown
from luq.store import keys

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
POCKET = Path(__file__).parent.parent / "pocket" / "weights"


def resolve_path(config: ModelConfig, download: bool = True) -> Path:
    """The local folder of a checkpoint: shipped, given, or fetched from the hub (or found in its cache)."""
    if config.path.startswith("pocket:"):
        name = config.path.removeprefix("pocket:")
        known = sorted(p.name for p in POCKET.iterdir() if p.is_dir()) if POCKET.exists() else []
        if name not in known:
            raise unknown("pocket model", name, known)
        return POCKET / name
    folder = Path(config.path).expanduser()
    if folder.exists():
        return folder
    if folder.is_absolute() or config.path.startswith((".", "~")):
        raise ModelError(f"model.path={config.path}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                config.path,
                revision=config.revision,
                allow_patterns=FILES,
                local_files_only=not download,
            )
        )
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
        raise ModelError(
            f"{folder} is already quantized ({quantized.get('quant_method')}): LUQ starts from 16-bit weights"
        )
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.exists():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for shard in shards:
        if not (folder / shard).exists():
            raise ModelError(f"{folder / shard} is missing: copy or download the checkpoint again")
        try:
            with safe_open(
                folder / shard, framework="pt"
            ):  # reads the header, and compares it with the file's size
                pass
        except SafetensorError as error:
            raise ModelError(
                f"{folder / shard} is damaged ({error}): copy or download the checkpoint again"
            ) from error
    if not any(
        (folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json")
    ):
        raise ModelError(
            f"{folder / 'preprocessor_config.json'} is missing: without it images cannot be prepared"
        )


def fingerprint(folder: Path) -> str:
    """Key of the names, sizes and contents of config and weights (of files over 64 MiB: both ends)."""
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.jinja")])
    return keys.key([[file.name, *keys.file_digest(file)] for file in files])


class Outline(NamedTuple):
    """What can be known of a checkpoint without loading it."""

    fingerprint: str
    layers: int  # decoder layers of the language backbone
    commit: str | None = None  # of the hub's repository; None for a folder


def outline(config: ModelConfig, download: bool = True) -> Outline:
    """The outline of a config's checkpoint; a ModelError if it is not complete, or (without download) not here."""
    folder = resolve_path(config, download)
    check_files(folder)
    told = json.loads((folder / "config.json").read_text())
    layers = told.get("text_config", told).get("num_hidden_layers") or told.get("num_hidden_layers")
    if layers is None:  # left out where it is the family's default
        from transformers import AutoConfig

        layers = AutoConfig.from_pretrained(folder).get_text_config().num_hidden_layers
    commit = (
        folder.name if folder.parent.name == "snapshots" else None
    )  # as the hub's cache lays them out
    return Outline(fingerprint(folder), int(layers), commit)
