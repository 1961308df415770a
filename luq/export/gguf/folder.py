"""A packed model as a folder for llama.cpp: model.gguf, mmproj.gguf, luq.json and README.md."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luq import __version__
from luq.errors import StoreError, unknown
from luq.escaping import markdown_code
from luq.export.about import (
    ABOUT,
    GGUF_LAYOUT,
    MMPROJ,
    MODEL,
    ExportedFolder,
    ExportedRun,
    about_json,
)
from luq.export.card import CardFacts, render
from luq.export.checksums import checksums
from luq.export.folder import READABLE_BY_ALL, README, PackedModel, check_before_writing, new_folder
from luq.export.gguf.contents import Content, Contents, ContentsOf, PackedFiles, read
from luq.export.gguf.forms import FLOATS
from luq.export.gguf.language import Language, language_of
from luq.export.gguf.package import gguf_package
from luq.export.gguf.vision import Vision, vision_of
from luq.export.gguf.vocabulary import Vocabulary, vocabulary_of
from luq.formats.gguf import KINDS
from luq.models.settings_files import (
    IMAGE_CONFIG,
    PROCESSOR_CONFIG,
    read_config,
    read_settings,
    sees_images,
)
from luq.store.store import write_json
from luq.store.writers import sole_writer

log = logging.getLogger(__name__)
LARGER = 1.2  # times its size in the store: what is said of a tier that grows more


def export(
    model: PackedModel,
    target: Path,
    run: ExportedRun | None = None,
    card: CardFacts | None = None,
    recode: str | None = None,
) -> Path:
    """Write a packed model as GGUF files.

    Args:
        model: What is packed.
        target: A folder that is empty or not there yet.
        run: What the files and luq.json say of it.
        card: What README.md says; without it there is none.
        recode: A GGUF type, such as q4_k, in which weights are coded again that no type holds;
            the files are then another model than the packed one. None: such weights are refused.

    Returns:
        The target.

    Raises:
        ConfigError: No GGUF type holds a tier, or llama.cpp would compute or tokenize otherwise.
        ModelError: The source is incomplete, the target is there, the disk is too small, or the
            package `gguf` is missing. Nothing is left behind then.
        StoreError: Another process is writing the target.
    """
    gguf_package()
    if recode is not None and recode not in KINDS:
        raise unknown("--recode", recode, KINDS)
    with sole_writer(target, "export"):
        check_before_writing(model.source, target)
        parts = _Parts(model)
        contents = ContentsOf(model, parts.language, parts.vision, recode).plan()
        _tell(contents)
        for difference in parts.differences:
            log.warning("%s", difference)
        with new_folder(target) as scratch:
            name = target.name if card is None else card.title
            ledger = parts.write(scratch, name, contents, run, card)
            about = ExportedFolder(
                GGUF_LAYOUT,
                ledger,
                sum(ledger.values()),
                run,
                checksums(scratch),
                contents.recoded,
                parts.differences,
            )
            write_json(scratch / ABOUT, about_json(about))
            if card is not None:
                note = _note(contents, parts.differences)
                text = render(card, GGUF_LAYOUT, ledger, parts.vision is not None, note)
                (scratch / README).write_text(text, encoding="utf-8")
    return target


class _Parts:
    """What a packed model is in llama.cpp's words; refuses what llama.cpp computes otherwise."""

    language: Language
    vision: Vision | None
    vocabulary: Vocabulary

    def __init__(self, model: PackedModel) -> None:
        from transformers import AutoConfig

        settings = read_config(model.source)
        family = str(settings["model_type"])
        config = AutoConfig.from_pretrained(model.source, trust_remote_code=False)
        self.model = model
        self.language = language_of(family, config)
        self.vision = None
        if sees_images(settings):
            images = model.image_processor or _image_settings(model.source)
            self.vision = vision_of(family, config, images)
        self.vocabulary = vocabulary_of(model.source, config.get_text_config().vocab_size)

    @property
    def differences(self) -> list[str]:
        """What llama.cpp is known to compute otherwise than the run did."""
        of_vision = [] if self.vision is None else self.vision.differences
        return [*of_vision, *self.vocabulary.differences]

    def write(
        self,
        folder: Path,
        name: str,
        contents: Contents,
        run: ExportedRun | None,
        card: CardFacts | None,
    ) -> dict[str, int]:
        """Write the files.

        Args:
            folder: Where.
            name: Of the model.
            contents: All tensors.
            run: What is said of it.
            card: What the card says.

        Returns:
            Bytes per class of what they hold, their headers too: sums to the files.
        """
        gguf = gguf_package()
        writer = gguf.GGUFWriter(folder / MODEL, self.language.name)
        writer.add_type(gguf.GGUFType.MODEL)
        _add_origin(writer, name, self.model, contents, run, card)
        self.language.add_keys(writer)
        self.vocabulary.add_keys(writer)
        _write(writer, contents.language, self.model.source)
        if self.vision is not None:
            architecture = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ]
            writer = gguf.GGUFWriter(folder / MMPROJ, architecture)
            writer.add_type(gguf.GGUFType.MMPROJ)
            _add_origin(writer, name, self.model, contents, run, card)
            self.vision.add_keys(writer)
            _write(writer, contents.vision, self.model.source)
        ledger: dict[str, int] = {}
        for content in [*contents.language, *contents.vision]:
            for ledger_class, size in content.ledger.items():
                ledger[ledger_class] = ledger.get(ledger_class, 0) + size
        file_bytes = sum(file.stat().st_size for file in folder.glob("*.gguf"))
        return ledger | {"header": file_bytes - sum(ledger.values())}


def _image_settings(source: Path) -> dict[str, Any]:
    """What a checkpoint's image processor is told, in whichever file that stands."""
    for name in (PROCESSOR_CONFIG, IMAGE_CONFIG):
        if (source / name).exists():
            settings = read_settings(source / name)
            images = settings.get("image_processor") if name == PROCESSOR_CONFIG else settings
            if isinstance(images, dict):
                return images
    return {}


def _add_origin(
    writer: Any,
    name: str,
    model: PackedModel,
    contents: Contents,
    run: ExportedRun | None,
    card: CardFacts | None,
) -> None:
    """Where a file comes from: what GGUF has keys for, and `luq.*` for all else."""
    gguf = gguf_package()
    allocation = str(model.allocation)
    writer.add_name(name)
    writer.add_quantized_by(f"LUQ {__version__}")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_description(f"packed by LUQ, layer by layer: {allocation}")
    card_of_source = gguf.Metadata.load_model_card(model.source)
    licence = card_of_source.get("license")
    if isinstance(licence, str):
        writer.add_license(licence)
    if card is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, card.base)
    writer.add_string("luq.version", __version__)
    writer.add_string("luq.allocation", allocation)
    writer.add_array("luq.tiers", list(model.allocation.tiers))
    other_tiers: list[str] = []
    for entry in model.allocation.others:
        other_tiers.append(f"{entry.layer} {entry.linear} {entry.tier}")
    writer.add_array("luq.other_tiers", other_tiers)
    parts = [f"{part} {stored.tier}" for part, stored in model.parts.items()]
    writer.add_array("luq.parts", parts)
    writer.add_float32("luq.stored_bits", contents.stored_bits)
    recoded = [f"{tier} {types}" for tier, types in contents.recoded.items()]
    writer.add_array("luq.recoded", recoded)
    if run is not None:
        writer.add_bool("luq.is_what_was_scored", not recoded)
        writer.add_string("luq.run", run.name)
        writer.add_string("luq.run_key", run.key)
        writer.add_string("luq.command", run.command)
        writer.add_string("luq.scores", json.dumps(run.scores))


def _write(writer: Any, contents: list[Content], source: Path) -> None:
    """Write a file, with one tensor in memory at a time."""
    gguf = gguf_package()
    files = PackedFiles(source)
    try:
        for content in contents:
            kind = gguf.GGMLQuantizationType[content.form.type.upper()]
            shape = gguf.quant_shape_to_byte_shape(content.shape, kind)
            # as bytes: the package then takes any type
            bytes_type = np.dtype(np.uint8)
            writer.add_tensor_info(content.name, shape, bytes_type, content.bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for content in contents:
            _write_bytes(writer, _as_bytes(read(content, files)))
    finally:
        writer.close()
    writer.path.chmod(READABLE_BY_ALL)


def _write_bytes(writer: Any, tensor: Tensor) -> None:
    try:
        writer.write_tensor_data(tensor.numpy())
    except OSError as error:
        if error.errno is not None:
            raise
        raise StoreError(
            f"{writer.path} cannot be written ({error}): free some space on that disk, or give "
            "another folder"
        ) from error  # numpy does not say what the system refused


def _as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of numbers, along the last dimension."""
    if tensor.dtype in FLOATS:
        return tensor.view(torch.uint8)
    return tensor


def _tell(contents: Contents) -> None:
    """Say what is not in the file as it was packed."""
    for tier, forms in contents.tiers.items():
        if tier in contents.recoded:
            log.warning(
                "%s is coded again in %s: the run's scores are not those of this file",
                tier,
                contents.recoded[tier],
            )
        elif forms.bytes > LARGER * forms.stored_bytes:
            log.warning(
                "%s is held exactly, but takes %.2f bits per weight in %s, and %.2f in the store",
                tier,
                8 * forms.bytes / forms.weights,
                forms.types,
                8 * forms.stored_bytes / forms.weights,
            )


def _note(contents: Contents, differences: list[str]) -> str:
    """What README.md says of the files."""
    note = f"In these files the linears take {contents.stored_bits:.3f} bits per weight."
    if contents.recoded:
        tiers = ", ".join(f"{tier} in {types}" for tier, types in contents.recoded.items())
        note = (
            f"**Coded again for these files: {markdown_code(tiers)}.** {note} Scores, and the bits "
            "above, are the run's."
        )
    else:
        note = f"{note} They mean what was scored."
    return " ".join([note, *(f"Known to differ: {difference}." for difference in differences)])
