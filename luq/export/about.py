"""What luq.json of an exported folder says. Needs no torch.

It ends with a digest of itself, and holds those of all other files that a model is loaded from
(`luq.export.checksums`).
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from luq.allocation.allocations import LinearTier
from luq.config.building import build
from luq.config.checks import is_plain_name
from luq.errors import ConfigError, ModelError
from luq.formats.sizes import Memory
from luq.store.sealed import read_table, sealed

# 1: trellis codes look their numbers up in a table, and the decoder alone is packed; it is still
# read.
FORMAT_VERSION = 2
NATIVE_LAYOUT = "luq"  # the folder's own layout, beside those of other libraries
GGUF_LAYOUT = "gguf"  # llama.cpp's: no Hugging Face folder
MODEL = "model.gguf"  # its files: the language model, and what sees images
MMPROJ = "mmproj.gguf"
ABOUT = "luq.json"
# An entry of config.json in which transformers looks for the name of the weight file. Without LUQ
# it would load a packed folder with random linears and a warning: it stops with this text instead.
# `luq.export.hf` takes it away.
GUARD_ENTRY = "transformers_weights"
GUARD = "this model is packed by LUQ: `pip install luq`, and `import luq` before from_pretrained"
T = TypeVar("T")


@dataclass(frozen=True)
class ExportedRun:
    """What luq.json says of the run that packed the model. Bits are those of `memory`."""

    key: str
    name: str
    command: str  # that makes the model again
    allocation: str
    tiers: list[str]  # of most linears of each layer
    model_fingerprint: str
    model_commit: str | None  # of the hub's repository; None for a folder
    system_prompt: str  # with which it was scored
    scores: dict[str, float]  # benchmark -> percent of the maximum
    mean_score: float
    mean_retention: float | None
    memory: Memory
    versions: dict[str, str]  # package -> version
    git_sha: str | None
    # Linears in another tier than most of their layer. Earlier versions had none.
    other_tiers: list[LinearTier] = field(default_factory=list)
    # Tiers of what is packed beside the decoder's linears, by part. Earlier versions had none.
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Checksum:
    """What a file of an exported folder was when it was written."""

    bytes: int
    sha256: str
    header_sha256: str = ""  # of a safetensors file's header with its length; empty for others


@dataclass(frozen=True)
class ExportedFolder:
    """What luq.json says of a folder: `ledger` is bytes per tensor class and sums to the files."""

    layout: str
    ledger: dict[str, int]
    file_bytes: int  # of the weight files
    run: ExportedRun | None = None
    # Name -> checksum. Empty in folders of earlier versions.
    files: dict[str, Checksum] = field(default_factory=dict)
    # Tier -> the type that its weights were coded again in: the run's scores are not this folder's.
    recoded: dict[str, str] = field(default_factory=dict)
    # What the program that it is for is known to compute otherwise than the run.
    differences: list[str] = field(default_factory=list)


def about_json(about: ExportedFolder) -> dict[str, Any]:
    """luq.json: one flat table."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "layout": about.layout,
        "ledger": about.ledger,
        "file_bytes": about.file_bytes,
        "files": {name: asdict(checksum) for name, checksum in about.files.items()},
    }
    if about.recoded:
        content["recoded"] = about.recoded
    if about.differences:
        content["differences"] = about.differences
    if about.run is not None:
        content |= asdict(about.run)
    return sealed(content)


def read_about(folder: Path) -> ExportedFolder:
    """What luq.json of an exported folder says.

    Raises:
        ModelError: It is no exported folder, a newer version wrote it, or the file is damaged.
    """
    file = folder / ABOUT
    if not file.is_file():
        raise ModelError(f"{folder} was not exported by LUQ: {ABOUT} is missing")
    try:
        content = read_table(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({error}): export the folder again") from error
    version = content.get("format_version", 0)
    if type(version) is not int:
        raise ModelError(f"{file} is damaged (format_version={version!r}): export the folder again")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{file} has format version {version}, this version reads {FORMAT_VERSION}: update luq"
        )
    run = _built(ExportedRun, content, file) if "key" in content else None
    # Folders without a layout's name were written when there was but one.
    values = {"layout": NATIVE_LAYOUT, **content, "run": None}
    about = _built(ExportedFolder, values, file)
    for name in about.files:
        if not is_plain_name(name):
            raise ModelError(
                f"{file} is damaged (files: {name!r} is none of the folder): export it again"
            )
    return replace(about, run=run)


def _built(kind: type[T], values: dict[str, Any], file: Path) -> T:
    """The dataclass `kind` from a table of a file, whose other entries are left out."""
    try:
        return build(kind, values, strict=False)
    except (ConfigError, TypeError) as error:  # a TypeError: an entry is missing
        raise ModelError(f"{file} is damaged ({error}): export the folder again") from error
