"""An allocation as a Hugging Face folder: the source's shards with the packed layers in place of their linears.

Shard by shard, so that no more than one is in memory; everything that is not a decoder linear is copied as it stands.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from luq.errors import ModelError
from luq.formats.base import PackedWeight
from luq.formats.layer_file import PackedLayer, read_layer
from luq.models.checkpoint import check_files
from luq.models.vlm import LINEARS, part_of
from luq.store.store import write_json

FORMAT = 1
INDEX, SINGLE, ABOUT = "model.safetensors.index.json", "model.safetensors", "luq.json"
COPIED = ("*.json", "*.model", "*.txt", "*.jinja")
LINEAR = re.compile(rf"^(.*\.)?layers\.(\d+)\.({'|'.join(map(re.escape, LINEARS))})\.weight$")
ELSEWHERE = re.compile(r"vision|visual|audio")  # towers have layers and attention of their own
Tensors = dict[
    str, tuple[torch.Tensor, str]
]  # what follows a linear's name in the file -> tensor and ledger class


class Layout(NamedTuple):
    """How packed linears stand in a folder: `config` is its quantization_config, `tensors` what it holds of one linear."""

    name: str
    config: Callable[[Sequence[Path], Sequence[str]], dict[str, Any]]
    tensors: Callable[[PackedWeight], Tensors]


def export(
    source: Path,
    folders: Sequence[Path],
    tiers: Sequence[str],
    target: Path,
    told: dict[str, Any],
    card: str,
    layout: Layout | None = None,
    image_processor: dict[str, Any] | None = None,
) -> Path:
    """Write `target`: weights, config, processor, luq.json (`told` and the ledger), README.md (`card`, {ledger} filled in).

    `folders[i]` holds layer i's packed linears, `source` the 16-bit checkpoint they were made from; `image_processor` are its
    settings where they are not the source's. A ModelError if the source is incomplete or already quantized, if the target is
    there, if the layout has no place for a tier, or if the disk is too small; nothing is left behind then.
    """
    layout = layout or NATIVE
    check_files(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists: give another folder, or delete it")
    shards = shards_of(source)
    needed = sum(
        (source / s).stat().st_size for s in shards
    )  # packed is smaller, but it is written beside its shard's rest
    parent = next(p for p in target.absolute().parents if p.exists())
    if shutil.disk_usage(parent).free < needed:
        raise ModelError(
            f"{parent} has {shutil.disk_usage(parent).free / 1e9:.1f} GB left, the export may need {needed / 1e9:.1f} GB"
        )
    quantization = layout.config(folders, tiers)
    scratch = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        ledger = _weights(source, shards, folders, scratch, layout)
        config = json.loads((source / "config.json").read_text())
        config["quantization_config"] = quantization
        for pattern in COPIED:
            for file in source.glob(pattern):
                if file.name not in (INDEX, "config.json", ABOUT):
                    shutil.copyfile(file, scratch / file.name)
        write_json(scratch / "config.json", config)
        if image_processor:
            _set_image_processor(scratch, image_processor)
        write_json(scratch / ABOUT, {**_head(layout, ledger), **told})
        (scratch / "README.md").write_text(card.replace("{ledger}", ledger_table(ledger)))
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _set_image_processor(folder: Path, settings: dict[str, Any]) -> None:
    """Give a folder's processor other settings for images, in whichever file it keeps them."""
    whole, alone = folder / "processor_config.json", folder / "preprocessor_config.json"
    told = json.loads(whole.read_text()) if whole.exists() else {}
    if "image_processor" in told:
        write_json(whole, told | {"image_processor": settings})
    else:
        old = json.loads(alone.read_text())
        write_json(
            alone,
            {n: v for n, v in old.items() if n not in ("min_pixels", "max_pixels")} | settings,
        )  # now in its size


def shards_of(source: Path) -> list[str]:
    """The names of a checkpoint's weight files."""
    index = source / INDEX
    return (
        sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if index.exists()
        else [SINGLE]
    )


def _head(layout: Layout, ledger: dict[str, int]) -> dict[str, Any]:
    return {
        "format_version": FORMAT,
        "layout": layout.name,
        "ledger": ledger,
        "file_bytes": sum(ledger.values()),
    }


def _weights(
    source: Path, shards: list[str], folders: Sequence[Path], target: Path, layout: Layout
) -> dict[str, int]:
    """Write the shards; returns bytes per class of what they hold, which sum to the files."""
    ledger: dict[str, int] = {}
    places: dict[str, str] = {}
    seen: set[tuple[int, str]] = set()
    read: tuple[int, PackedLayer] | None = None
    total = 0
    for shard in shards:
        tensors: dict[str, torch.Tensor] = {}
        try:
            with safe_open(source / shard, framework="pt") as file:
                for name in sorted(file.keys()):
                    found = None if ELSEWHERE.search(name) else LINEAR.match(name)
                    if found is None:
                        tensors[name] = file.get_tensor(name)
                        _count(ledger, part_of(name), tensors[name])
                        continue
                    index, linear = int(found[2]), found[3]
                    if index >= len(folders):
                        raise ModelError(
                            f"{source / shard} has decoder layer {index}, but {len(folders)} layers were packed"
                        )
                    if read is None or read[0] != index:
                        read = index, read_layer(folders[index])
                    seen.add((index, linear))
                    for suffix, (tensor, part) in layout.tensors(read[1][linear]).items():
                        tensors[f"{name.removesuffix('weight')}{suffix}"] = tensor
                        _count(ledger, part, tensor)
        except SafetensorError as error:
            raise ModelError(
                f"{source / shard} is damaged ({error}): copy or download it again"
            ) from error
        save_file(tensors, target / shard, metadata={"format": "pt"})
        (target / shard).chmod(0o644)  # safetensors makes files that only their owner can read
        places |= dict.fromkeys(tensors, shard)
        total += (target / shard).stat().st_size
    missing = [
        f"layers.{i}.{name}"
        for i in range(len(folders))
        for name in LINEARS
        if (i, name) not in seen
    ]
    if missing:
        raise ModelError(
            f"{source} has no weight for {missing[0]}: its tensors have other names than this version knows"
        )
    size = total - sum(ledger.values())
    if len(shards) > 1:
        write_json(
            target / INDEX, {"metadata": {"total_size": sum(ledger.values())}, "weight_map": places}
        )
    return ledger | {"header": size}


def _count(ledger: dict[str, int], part: str, tensor: torch.Tensor) -> None:
    ledger[part] = ledger.get(part, 0) + tensor.numel() * tensor.element_size()


def quantization_config(folders: Sequence[Path], tiers: Sequence[str]) -> dict[str, Any]:
    """What `luq.export.hf.LuqConfig` reads: every packed linear's format, shape and buffers, without their content."""
    layers = []
    for folder, tier in zip(folders, tiers, strict=True):
        linears = {}
        for name, weight in read_layer(folder).items():
            buffers = {
                b: [str(t.dtype).removeprefix("torch."), list(t.shape)]
                for b, t in weight.buffers.items()
            }
            linears[name.rpartition(".")[2]] = {
                "format": weight.format,
                "shape": list(weight.shape),
                "buffers": buffers,
                **weight.meta,
            }
        layers.append({"tier": tier, "linears": linears})
    return {"quant_method": "luq", "format_version": FORMAT, "layers": layers}


def _buffers(weight: PackedWeight) -> Tensors:
    return {name: (tensor, weight.classes[name]) for name, tensor in weight.buffers.items()}


NATIVE = Layout("luq", quantization_config, _buffers)


def ledger_table(ledger: dict[str, int]) -> str:
    """Markdown of bytes per class, largest first, and their sum: the weight files."""
    rows = [
        f"| {part} | {count:,} |"
        for part, count in sorted(ledger.items(), key=lambda item: -item[1])
    ]
    return "\n".join(
        [
            "| part | bytes |",
            "|---|---:|",
            *rows,
            f"| **weight files** | **{sum(ledger.values()):,}** |",
        ]
    )


def about(folder: Path) -> dict[str, Any]:
    """What luq.json of an exported folder says; a ModelError if it is none."""
    file = folder / ABOUT
    if not file.exists():
        raise ModelError(f"{folder} was not exported by LUQ: {ABOUT} is missing")
    told: dict[str, Any] = json.loads(file.read_text())
    if told.get("format_version", 0) > FORMAT:
        raise ModelError(
            f"{file} has format version {told['format_version']}, this version reads {FORMAT}: update luq"
        )
    return told
