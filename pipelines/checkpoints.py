"""Packed models as folders: `luq export`, `luq info`, `luq chat`, and `checkpoint=true` of a run."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from luq.config import ModelConfig
from luq.errors import DataError, ModelError
from luq.export.card import CardFacts, ScoreRow
from luq.export.folder import NATIVE, ExportedRun, Layout, PackedModel, read_about
from luq.export.folder import export as write_folder
from luq.formats.sizes import Memory
from luq.models.checkpoint import fingerprint, resolve_path
from luq.models.processors import load_processor
from luq.models.vlm import compute_dtype
from luq.store.store import Store
from pipelines import console, results
from pipelines.results import Record


def card_facts(record: Record) -> CardFacts:
    """What the model card of a run says."""
    rows: list[ScoreRow] = []
    for name, score in record["scores"].items():
        rows.append(
            ScoreRow(
                benchmark=name,
                n=score["n"],
                float_score=score["float_score"],
                score=score["score"],
                stderr=score["stderr"],
                retention=score["retention"],
                is_collapsed=bool(score["collapsed"]),
            )
        )
    config = record["config"]
    model = config["model"]
    return CardFacts(
        base=model["name"] if model["path"].startswith("pocket:") else model["path"],
        title=f"{model['name']}, {record['name']}",
        allocation=record["allocation"],
        nominal_bits=record["memory"]["nominal_bits"],
        stored_bits=record["memory"]["stored_bits"],
        command=record["command"],
        calibration=config["calibration"]["name"],
        calibration_tokens=record["calibration"]["tokens"],
        split=record["split"],
        scores=rows,
        float_mean_score=record["float_mean_score"],
        mean_score=record["mean_score"],
        mean_retention=record["mean_retention"],
    )


def exported_run(record: Record, system_prompt: str) -> ExportedRun:
    """What luq.json says of a run."""
    return ExportedRun(
        key=record["key"],
        name=record["name"],
        command=record["command"],
        allocation=record["allocation"],
        tiers=record["tiers"],
        model_fingerprint=record["model_fingerprint"],
        model_commit=record.get("model_commit"),
        system_prompt=system_prompt,
        scores={name: score["score"] for name, score in record["scores"].items()},
        mean_score=record["mean_score"],
        mean_retention=record["mean_retention"],
        memory=Memory(**record["memory"]),
        versions=record["versions"],
        git_sha=record["git_sha"],
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
    family = json.loads((source / "config.json").read_text())["model_type"]
    changed = any(setting is not None for setting in config.image)
    images = load_processor(source, family, config).image_processor.to_dict() if changed else None
    model = PackedModel(source, folders, record["tiers"], images)
    run = exported_run(record, config.system_prompt)
    return write_folder(model, target, run, card_facts(record), how)


def _layout(name: str) -> Layout:
    if name == "luq":
        return NATIVE
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
    about = read_about(folder)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}
    shown = Table(title=escape(str(folder)), title_justify="left")
    shown.add_column("part")
    shown.add_column("bytes", justify="right")
    shown.add_column("%", justify="right")
    for part, count in sorted(about.ledger.items(), key=lambda item: -item[1]):
        shown.add_row(part, f"{count:,}", f"{100 * count / about.file_bytes:.1f}")
    shown.add_section()
    shown.add_row("sum of the ledger", f"{about.file_bytes:,}", "100.0")
    shown.add_row("weight files on disk", f"{sum(sizes.values()):,}", "")
    console.out.print(shown)
    if about.run is not None:
        _show_run(about.run)
    if sum(sizes.values()) != about.file_bytes:
        raise ModelError(
            f"{folder}: the weight files do not have the bytes that its ledger counts: export or download it again"
        )


def _show_run(run: ExportedRun) -> None:
    """Print what luq.json says of the run."""
    console.out.print(f"allocation: {run.allocation}", markup=False)
    console.out.print(
        f"nominal {run.memory.nominal_bits:.2f}, stored {run.memory.stored_bits:.3f} bits per "
        "weight of the decoder's linears"
    )
    scores = ", ".join(f"{name} {score:.1f}" for name, score in run.scores.items())
    retention = ""
    if run.mean_retention is not None:
        retention = f" ({100 * run.mean_retention:.1f} % of 16-bit)"
    console.out.print(f"scores: {scores}; mean {run.mean_score:.1f}{retention}")
    console.out.print(f"made by: {run.command}", markup=False)


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
    run = read_about(folder).run
    system = run.system_prompt if run is not None else ""
    model, processor = load(folder)
    if question:
        console.out.print(answer(model, processor, image, question, system=system), markup=False)
        return
    while asked := console.out.input("[bold]?[/bold] ").strip():
        console.out.print(answer(model, processor, image, asked, system=system), markup=False)
