"""The checksums of an exported folder: written with it, compared before it is loaded.

They are in luq.json, by the name of each file that a model or its processor is loaded from. To
compare all bytes of a large folder takes long (a second for one to two GB), so loading does that
below `QUICK_BYTES` of weights, or where the environment variable LUQ_VERIFY is `always`; of larger
weight files it compares sizes and headers. `never` leaves it out.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from luq.errors import ConfigError, LuqError, ModelError
from luq.export.about import ABOUT, Checksum, ExportedFolder, read_about
from luq.models.checkpoint import SETTINGS
from luq.store.digests import file_digest, sha256_of

VARIABLE = "LUQ_VERIFY"
AUTO, ALWAYS, NEVER = CHOICES = ("auto", "always", "never")
QUICK_BYTES = 8_000_000_000
WEIGHTS = ".safetensors"
GGUF = ".gguf"  # weights, too, with all else that llama.cpp reads
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
HEADER_LIMIT = 100_000_000  # bytes; safetensors itself reads no longer header


def checksums(folder: Path) -> dict[str, Checksum]:
    """Checksums of all files that a folder's model is loaded from, by name."""
    sums: dict[str, Checksum] = {}
    for file in _loaded_files(folder):
        header = header_sha256(file) if file.suffix == WEIGHTS else ""
        sums[file.name] = Checksum(file.stat().st_size, sha256_of(file), header)
    return sums


def _loaded_files(folder: Path) -> Iterable[Path]:
    """Weights, config, tokenizer and processor. The card is none of them: people edit it."""
    files: set[Path] = set()
    for pattern in (f"*{WEIGHTS}", f"*{GGUF}", *SETTINGS):
        files.update(file for file in folder.glob(pattern) if file.name != ABOUT)
    return sorted(files)


def header_sha256(file: Path) -> str:
    """The sha256 of a safetensors file's header, its length before it."""
    with file.open("rb") as stream:
        length = stream.read(LENGTH_BYTES)
        size = min(int.from_bytes(length, "little"), HEADER_LIMIT)
        return hashlib.sha256(length + stream.read(size)).hexdigest()


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weight files, as they are on the disk."""
    files = [*folder.glob(f"*{WEIGHTS}"), *folder.glob(f"*{GGUF}")]
    return sum(file.stat().st_size for file in files)


def damage(folder: Path, about: ExportedFolder) -> list[str]:
    """What of a folder is not as it was exported: a line for each file. Reads all bytes."""
    lines: list[str] = []
    for name, checksum in about.files.items():
        difference = _difference(folder / name, checksum)
        if not difference and sha256_of(folder / name) != checksum.sha256:
            difference = "its bytes are not those that were exported"
        if difference:
            lines.append(f"{name}: {difference}")
    for file in _loaded_files(folder):
        if file.name not in about.files:
            lines.append(f"{file.name}: it was not exported, and could be loaded with the rest")
    return lines


def verify(folder: Path) -> ExportedFolder:
    """Compare all bytes of a folder with its checksums.

    Returns:
        What its luq.json says.

    Raises:
        ModelError: Names all files that are damaged, missing or foreign; or there are no checksums.
    """
    about = read_about(folder)
    if not about.files:
        raise ModelError(
            f"{folder} holds no checksums: an earlier version of luq exported it; export it again"
        )
    lines = damage(folder, about)
    if lines:
        raise ModelError(
            f"{folder} is not what was exported: {'; '.join(lines)}. Copy, download or export it "
            "again"
        )
    return about


def _choice() -> str:
    """How thoroughly the environment wants folders to be compared."""
    choice = os.environ.get(VARIABLE) or AUTO
    if choice not in CHOICES:
        raise ConfigError(f"{VARIABLE}={choice!r}: it is one of {', '.join(CHOICES)}")
    return choice


def check_complete(folder: Path, about: ExportedFolder) -> None:
    """Refuse a folder that lacks a file: model, tokenizer and processor are about to be loaded.

    Raises:
        ModelError: Names the first file that is missing.
    """
    for name in about.files:
        if _choice() != NEVER and not (folder / name).exists():
            raise ModelError(
                f"{folder / name} is missing: copy, download or export the folder again"
            )


def check_before_loading(folder: Path) -> None:
    """Compare a folder with its checksums as thoroughly as the environment asks.

    A folder that LUQ did not export, or an earlier version of it, has none. Files that are not
    there are not missed.

    Raises:
        ModelError: Names the first file that differs.
        ConfigError: LUQ_VERIFY is none of the choices.
    """
    choice = _choice()
    if choice == NEVER or not (folder / ABOUT).exists():
        return
    about = read_about(folder)
    are_all_bytes_read = choice == ALWAYS or about.file_bytes < QUICK_BYTES
    for name, checksum in about.files.items():
        file = folder / name
        if not file.exists():
            continue  # what is needed is missed by what loads it; a model needs no tokenizer
        difference = _difference(file, checksum)
        if not difference and (are_all_bytes_read or file.suffix != WEIGHTS):
            difference = _content_difference(file, checksum)
        if difference:
            raise ModelError(
                f"{file}: {difference}. Copy, download or export the folder again, or see all that "
                f"differs with `luq info --verify`; {VARIABLE}={NEVER} loads it as it is"
            )


def _difference(file: Path, checksum: Checksum) -> str:
    """What is seen of a file without reading it all; empty if nothing is."""
    if not file.is_file():
        return "it is missing"
    size = file.stat().st_size
    if size != checksum.bytes:
        return f"it has {size:,} bytes, and {checksum.bytes:,} were exported"
    if checksum.header_sha256 and header_sha256(file) != checksum.header_sha256:
        return "its header is not the one that was exported"
    return ""


def _content_difference(file: Path, checksum: Checksum) -> str:
    """What is seen of a file's bytes, which are digested once while the file does not change."""
    try:
        _size, sha256 = file_digest(file)
    except LuqError as error:
        return str(error)
    return "" if sha256 == checksum.sha256 else "its bytes are not those that were exported"
