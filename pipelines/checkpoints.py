"""Packed models as folders: `luq export`, `luq info`, `luq chat`, and `checkpoint=true` of a run."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from luq import __version__
from luq.config import ModelConfig
from luq.errors import DataError, ModelError
from luq.export import folder as save
from luq.models.checkpoint import fingerprint, resolve_path
from luq.models.processors import load_processor
from luq.models.vlm import compute_dtype
from luq.store.store import Store
from pipelines import console, results
from pipelines.results import Record

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
base_model: {base}
tags: [luq, quantized, vision-language]
---
# {title}

{base} with its decoder's linears packed by [LUQ](https://arxiv.org/abs/2509.23729), layer by layer: `{allocation}`.
{bits} nominal and {stored} stored bits per weight of the decoder's linears.

```python
{needs}
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("DIR")
processor = AutoProcessor.from_pretrained("DIR")
```

Made with luq {version}: `{command}`, calibrated on `{calibration}`.

## Where the bytes are

{{ledger}}

## Scores

{split} split; ±: standard error. Retention: share of the same model's own 16-bit score.

{scores}
"""


NEEDS = {
    "luq": "import luq  # pip install luq",
    "compressed-tensors": "# pip install compressed-tensors",
}


def card(record: Record, layout: str = "luq") -> str:
    """The model card of a run; `{ledger}` is filled in when the files are written."""
    rows = ["| benchmark | n | 16-bit | this model | retention % |", "|---|---:|---:|---:|---:|"]
    for name, s in record["scores"].items():
        kept = "-" if s["retention"] is None else f"{100 * s['retention']:.1f}"
        flag = " (collapsed)" if s["collapsed"] else ""
        rows.append(
            f"| {name}{flag} | {s['n']} | {s['float_score']:.1f} | {s['score']:.1f} ± {s['stderr']:.1f} | {kept} |"
        )
    kept = "-" if record["mean_retention"] is None else f"{100 * record['mean_retention']:.1f}"
    rows.append(
        f"| **mean** | | {record['float_mean_score']:.1f} | {record['mean_score']:.1f} | {kept} |"
    )
    config, memory = record["config"], record["memory"]
    return CARD.format(
        base=config["model"]["name"]
        if config["model"]["path"].startswith("pocket:")
        else config["model"]["path"],
        title=f"{config['model']['name']}, {record['name']}",
        allocation=record["allocation"],
        bits=f"{memory['nominal_bits']:.2f}",
        stored=f"{memory['stored_bits']:.3f}",
        version=__version__,
        command=record["command"],
        needs=NEEDS[layout],
        calibration=f"{config['calibration']['name']}, {record['calibration']['tokens']} tokens",
        split=record["split"],
        scores="\n".join(rows),
    )


def export(outputs: Path, record: Record, target: Path, layout: str = "luq") -> Path:
    """Write a run's packed model as a Hugging Face folder. A ModelError if its checkpoint is another one now."""
    how = _layout(layout)
    config = ModelConfig(**record["config"]["model"])
    source = resolve_path(config)
    if fingerprint(source) != record["model_fingerprint"]:
        raise ModelError(
            f"{source} is not the checkpoint that the run {record['key']} quantized: give it back, or run again"
        )
    store = Store(outputs / "store")
    folders = [store.verify("layers", key) for key in record["artefacts"]["quantize"]]
    kept = (
        "key",
        "name",
        "command",
        "allocation",
        "tiers",
        "model_fingerprint",
        "model_commit",
        "mean_score",
        "mean_retention",
        "versions",
        "git_sha",
    )
    told = {name: record.get(name) for name in kept} | {
        "memory": record["memory"],
        "system_prompt": config.system_prompt,
    }
    told["scores"] = {name: s["score"] for name, s in record["scores"].items()}
    family = json.loads((source / "config.json").read_text())["model_type"]
    changed = any(setting is not None for setting in config.image)
    images = load_processor(source, family, config).image_processor.to_dict() if changed else None
    return save.export(
        source, folders, record["tiers"], target, told, card(record, layout), how, images
    )


def _layout(name: str) -> save.Layout:
    if name == "luq":
        return save.NATIVE
    if find_spec("compressed_tensors") is None:
        raise ModelError(
            "--format compressed-tensors needs its package: pip install compressed-tensors"
        )
    from luq.export.compressed_tensors import COMPRESSED_TENSORS

    return COMPRESSED_TENSORS


def export_run(outputs: Path, run: str, target: Path, layout: str = "luq") -> None:
    """`luq export RUN DIR [--format compressed-tensors]`."""
    folder = export(outputs, results.find(outputs, run), target, layout)
    info(folder)
    first = "import luq; " if layout == "luq" else ""
    console.out.print(
        f"load it: {first}AutoModelForImageTextToText.from_pretrained({str(folder)!r})",
        markup=False,
    )
    console.out.print(
        f"or ask it: luq chat {shlex.quote(str(folder))} --image X --question Y", markup=False
    )


def info(folder: Path) -> None:
    """`luq info DIR`: allocation, bits, ledger and scores of an exported folder."""
    told = save.about(folder)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}
    shown = Table(title=escape(str(folder)), title_justify="left")
    shown.add_column("part")
    shown.add_column("bytes", justify="right")
    shown.add_column("%", justify="right")
    for part, count in sorted(told["ledger"].items(), key=lambda item: -item[1]):
        shown.add_row(part, f"{count:,}", f"{100 * count / told['file_bytes']:.1f}")
    shown.add_section()
    shown.add_row("sum of the ledger", f"{told['file_bytes']:,}", "100.0")
    shown.add_row("weight files on disk", f"{sum(sizes.values()):,}", "")
    console.out.print(shown)
    memory = told["memory"]
    console.out.print(f"allocation: {told['allocation']}", markup=False)
    console.out.print(
        f"nominal {memory['nominal_bits']:.2f}, stored {memory['stored_bits']:.3f} bits per weight of the decoder's linears"
    )
    scores = ", ".join(f"{name} {score:.1f}" for name, score in told["scores"].items())
    kept = (
        ""
        if told["mean_retention"] is None
        else f" ({100 * told['mean_retention']:.1f} % of 16-bit)"
    )
    console.out.print(f"scores: {scores}; mean {told['mean_score']:.1f}{kept}")
    console.out.print(f"made by: {told['command']}", markup=False)
    if sum(sizes.values()) != told["file_bytes"]:
        raise ModelError(
            f"{folder}: the weight files do not have the bytes that its ledger counts: export or download it again"
        )


def load(folder: Path, device: str = "auto") -> tuple[Any, Any]:
    """Model and processor of a folder through the Auto classes, in the type that runs are scored in."""
    import torch
    from transformers import AutoModelForImageTextToText

    place = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=compute_dtype(folder, place)
    )
    processor = load_processor(
        folder, model.config.model_type, ModelConfig(folder.name, str(folder))
    )
    return model.to(place).eval(), processor


def answer(
    model: Any, processor: Any, image: Path, question: str, tokens: int = 128, system: str = ""
) -> str:
    """What a model says of an image, greedily; `system` is the prompt that the run was scored with."""
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{image} cannot be opened as an image ({error})") from error
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    chat = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[picture], text=[chat], return_tensors="pt").to(
        model.device, model.dtype
    )
    with torch.no_grad():
        said = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return str(
        processor.batch_decode(said[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    ).strip()


def chat(folder: Path, image: Path, question: str | None) -> None:
    """`luq chat DIR --image X [--question Y]`: one answer, or question after question until an empty line."""
    system = save.about(folder).get("system_prompt", "")
    model, processor = load(folder)
    if question:
        console.out.print(answer(model, processor, image, question, system=system), markup=False)
        return
    while asked := console.out.input("[bold]?[/bold] ").strip():
        console.out.print(answer(model, processor, image, asked, system=system), markup=False)
