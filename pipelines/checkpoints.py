"""A run's packed model as a folder: `luq export`, `luq info`, and `checkpoint=true` of a run."""

import shlex
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from luq.allocation.allocations import Allocation
from luq.errors import ConfigError, ModelError
from luq.export import checksums
from luq.export.about import (
    GGUF_LAYOUT,
    MMPROJ,
    MODEL,
    NATIVE_LAYOUT,
    ExportedRun,
    read_about,
)
from luq.export.card import CardFacts, ScoreRow
from luq.models.checkpoint import fingerprint, resolve_path, stored_dtype
from luq.models.settings_files import read_config, sees_images
from luq.plugins import plugin
from luq.store.store import Store
from pipelines import console, runs_folder
from pipelines.record import RunRecord
from pipelines.sheet import Column, Sheet, text_column

if TYPE_CHECKING:
    from luq.export.folder import Layout, PackedModel


def card_facts(record: RunRecord) -> CardFacts:
    """What the model card of a run says."""
    rows: list[ScoreRow] = []
    for name, score in record.scores.items():
        rows.append(
            ScoreRow(
                benchmark=name,
                n=score.n,
                float_score=score.float_score,
                score=score.score,
                low=score.interval.low,
                high=score.interval.high,
                retention=score.retention,
                is_collapsed=bool(score.collapsed),
            )
        )
    model = record.config.model
    calibration = record.calibration
    is_shipped = plugin(model.path.partition(":")[0]) is not None
    return CardFacts(
        base=model.name if is_shipped else model.path,
        title=f"{model.name}, {record.name}",
        allocation=record.allocation,
        nominal_bits=record.memory.nominal_bits,
        stored_bits=record.memory.stored_bits,
        command=record.command,
        calibration="nothing" if calibration is None else record.config.calibration.name,
        calibration_tokens=0 if calibration is None else calibration.tokens,
        split=record.split,
        scores=rows,
        float_mean_score=record.float_mean_score,
        mean_score=record.mean_score,
        mean_retention=record.mean_retention,
        parts=record.part_tiers,
    )


def exported_run(record: RunRecord) -> ExportedRun:
    """What luq.json says of a run."""
    return ExportedRun(
        key=record.key,
        name=record.name,
        command=record.command,
        allocation=record.allocation,
        tiers=record.tiers,
        other_tiers=record.other_tiers,
        model_fingerprint=record.model_fingerprint,
        model_commit=record.model_commit,
        system_prompt=record.config.model.system_prompt,
        scores={name: score.score for name, score in record.scores.items()},
        mean_score=record.mean_score,
        mean_retention=record.mean_retention,
        memory=record.memory,
        versions=record.versions,
        git_sha=record.git_sha,
        parts=record.part_tiers,
    )


def export(
    outputs: Path,
    record: RunRecord,
    target: Path,
    layout: str = NATIVE_LAYOUT,
    recode: str | None = None,
) -> Path:
    """Write a run's packed model as a folder: a Hugging Face one, or one for llama.cpp.

    Args:
        outputs: where the run's store is.
        record: the run's.
        target: a folder that is empty or not there yet.
        layout: how packed linears stand in it.
        recode: the GGUF type of weights that no type holds.

    Raises:
        ConfigError: the layout has no place for a tier, or `recode` goes with another one.
        ModelError: the run's checkpoint is another one now, or the folder cannot be written.
        StoreError: a packed layer is not in the store any more, or is damaged.
    """
    from luq.export.folder import PackedModel, StoredPart
    from luq.models.processors import load_processor

    if recode is not None and layout != GGUF_LAYOUT:
        raise ConfigError(f"--recode goes with --format {GGUF_LAYOUT}: leave it out")
    config = record.config.model
    source = resolve_path(config)
    write = _writer(layout, source, recode)
    if fingerprint(source, anew=True) != record.model_fingerprint:
        raise ModelError(
            f"{source} is not the checkpoint that the run {record.key} quantized (or that run is "
            "of a version that digested only the ends of files): give it back, or run again"
        )
    store = Store(outputs / "store")
    folders = [store.verify("layers", key) for key in record.artefacts.layers]
    images = None
    if any(setting is not None for setting in config.image):
        family = str(read_config(source)["model_type"])
        images = load_processor(source, family, config).image_processor.to_dict()
    allocation = Allocation(tuple(record.tiers), tuple(record.other_tiers))
    tiers = record.part_tiers
    parts = {
        part: StoredPart(store.verify("parts", key), tiers[part])
        for part, key in record.artefacts.parts.items()
    }
    model = PackedModel(source, folders, allocation, images, parts)
    return write(model, target, exported_run(record), card_facts(record))


def _writer(
    layout: str, source: Path, recode: str | None
) -> Callable[["PackedModel", Path, ExportedRun, CardFacts], Path]:
    """What writes a folder in a layout."""
    if layout == GGUF_LAYOUT:
        from luq.export.gguf.folder import export as write_gguf
        from luq.export.gguf.package import gguf_package

        gguf_package()
        return partial(write_gguf, recode=recode)
    from luq.export.folder import export as write_folder

    return partial(write_folder, layout=_layout(layout, source))


def _layout(name: str, source: Path) -> "Layout":
    """The layout of a name; the source says in which type numbers are."""
    from luq.export.dequantized import DEQUANTIZED, dequantized
    from luq.export.folder import NATIVE

    if name == NATIVE_LAYOUT:
        return NATIVE
    if name == DEQUANTIZED:
        import torch

        return dequantized(getattr(torch, stored_dtype(source)))
    if find_spec("compressed_tensors") is None:
        raise ModelError(
            "--format compressed-tensors needs its package: pip install compressed-tensors"
        )
    from luq.export.compressed_tensors import COMPRESSED_TENSORS

    return COMPRESSED_TENSORS


def export_run(
    outputs: Path,
    run: str,
    target: Path,
    layout: str = NATIVE_LAYOUT,
    recode: str | None = None,
) -> None:
    """`luq export RUN DIR [--format NAME] [--recode TYPE]`."""
    folder = export(outputs, runs_folder.find(outputs, run), target, layout, recode)
    info(folder)
    if layout == GGUF_LAYOUT:
        _show_llama_cpp(folder)
        return
    first = "import luq; " if layout == NATIVE_LAYOUT else ""
    has_eyes = sees_images(read_config(folder))
    kind = "AutoModelForImageTextToText" if has_eyes else "AutoModelForCausalLM"
    console.out.print(f"load it: {first}{kind}.from_pretrained({str(folder)!r})")
    image = "--image X " if has_eyes else ""
    console.out.print(f"or ask it: luq chat {shlex.quote(str(folder))} {image}--question Y")


def _show_llama_cpp(folder: Path) -> None:
    """Print how llama.cpp is asked."""
    command = f"llama-cli -m {shlex.quote(str(folder / MODEL))}"
    if (folder / MMPROJ).exists():
        command = (
            f"llama-mtmd-cli -m {shlex.quote(str(folder / MODEL))} "
            f"--mmproj {shlex.quote(str(folder / MMPROJ))} --image X"
        )
    console.out.print(f"ask it: {command} -p Y")


def info(folder: Path, verify: bool = False) -> None:
    """`luq info DIR [--verify]`: allocation, bits, ledger and scores of an exported folder.

    Args:
        folder: what was exported.
        verify: first compare all bytes of its files with their checksums.

    Raises:
        ModelError: it is no exported folder, or not as it was exported.
    """
    about = checksums.verify(folder) if verify else read_about(folder)
    file_bytes = checksums.weight_bytes(folder)
    table = Sheet(str(folder), [text_column("part"), Column("bytes"), Column("%", rank=1)])
    parts = sorted(about.ledger.items(), key=lambda item: -item[1])
    for part, count in parts:
        share = f"{100 * count / about.file_bytes:.1f}"
        table.add_row(part, f"{count:,}", share, ends_section=part == parts[-1][0])
    table.add_row("sum of the ledger", f"{about.file_bytes:,}", "100.0")
    table.add_row("weight files on disk", f"{file_bytes:,}", "")
    console.out.print(table)
    if about.run is not None:
        _show_run(about.run)
    for tier, types in about.recoded.items():
        console.out.print(
            f"coded again: {tier} in {types}; scores and bits are the run's, not this folder's"
        )
    if about.layout == "dequantized":
        console.out.print("plain weights: allocation and bits are those of the packed model")
    if file_bytes != about.file_bytes:
        raise ModelError(
            f"{folder}: the weight files do not have the bytes that its ledger counts: export or "
            "download it again, or see which with --verify"
        )
    if verify:
        size = sum(checksum.bytes for checksum in about.files.values())
        console.out.print(f"{len(about.files)} files with {size:,} bytes are what was exported")


def _show_run(run: ExportedRun) -> None:
    """Print what luq.json says of the run."""
    console.out.print(f"allocation: {run.allocation}")
    if run.parts:
        part_tiers = ", ".join(f"{part} in {tier}" for part, tier in run.parts.items())
        console.out.print(f"beside it: {part_tiers}")
    console.out.print(
        f"nominal {run.memory.nominal_bits:.2f}, stored {run.memory.stored_bits:.3f} bits per "
        "weight of the decoder's linears"
    )
    scores = ", ".join(f"{name} {score:.1f}" for name, score in run.scores.items())
    retention = ""
    if run.mean_retention is not None:
        retention = f" ({100 * run.mean_retention:.1f} % of 16-bit)"
    if not scores:
        scores = "none, by perplexity"
    console.out.print(f"scores: {scores}; mean {run.mean_score:.1f}{retention}")
    console.out.print(f"made by: {run.command}")
