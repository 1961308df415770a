"""A user's own calibration samples: texts with images or without, from a list or a JSON lines file.

Each is `{"image": ..., "text": ...}`, or `{"images": [...], "text": ...}` for several images; one
without an image is plain text. They are the calibration set as they stand, all of them in their
order: its share of multimodal tokens is what they hold.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luq.config.checks import VOLATILE
from luq.errors import DataError, unknown
from luq.questions import pictures
from luq.questions.overlap import QUESTION, SharedRow, plain_words, text_overlap
from luq.questions.tables import Questions
from luq.questions.text import TextSource
from luq.store.digests import file_digest
from luq.store.keys import Identified, digest

if TYPE_CHECKING:
    from PIL.Image import Image

FIELDS = ("image", "images", "text")


@dataclass(frozen=True)
class OwnImage:
    """An image of a sample: a file, its encoded bytes, or a decoded picture in RGB."""

    content: "Path | bytes | Image"
    digest: str

    def picture(self) -> "Image":
        """The picture in RGB, upright.

        Raises:
            DataError: it does not decode, or its file is another one than when it was first read.
        """
        content = self.content
        if isinstance(content, Path):
            encoded = _file_bytes(content)
            if hashlib.sha256(encoded).hexdigest() != self.digest:
                raise DataError(f"{content} changed since the calibration samples were read")
            content = encoded
        if isinstance(content, bytes):
            return pictures.decoded(content)
        return content


@dataclass(frozen=True)
class OwnSample:
    """One sample: its text, and the images that are shown before it."""

    name: str  # where it stands, for errors and for the record
    text: str
    images: tuple[OwnImage, ...]

    @cached_property
    def pixels(self) -> list[str]:
        """A digest of each image's pixels: the same however the image is encoded."""
        return [pixel_digest(image.picture()) for image in self.images]


@dataclass(frozen=True, eq=False, repr=False)
class OwnSamples(Identified):
    """A user's samples as they stand in keys: by their content, never by where they were."""

    content: str  # digest of all texts and images
    samples: tuple[OwnSample, ...] = field(metadata=VOLATILE)
    name: str = field(metadata=VOLATILE)  # of the file, or what stands for a list

    def shared_with(self, questions: Questions, rows: Iterable[int]) -> list[SharedRow]:
        """The questions that are asked and that a sample holds, word for word, with their image.

        Args:
            questions: a benchmark's.
            rows: which of them are asked.
        """
        words = [plain_words(sample.text) for sample in self.samples]
        question_texts = list(questions.docs.select_columns([QUESTION])[QUESTION])
        shared: list[SharedRow] = []
        for row in rows:
            question = plain_words(question_texts[row])
            holding: list[OwnSample] = []
            for sample, sample_words in zip(self.samples, words, strict=True):
                if question and sample.images and question in sample_words:
                    holding.append(sample)
            # An image is only decoded where the words agree.
            if not holding:
                continue
            image = _asked_pixels(questions, row)
            for sample in holding:
                if image in sample.pixels:
                    shared.append(SharedRow(f"{questions.benchmark}:{row}", sample.name))
                    break
        return shared


def check_own_texts(calibration: OwnSamples, report: TextSource) -> None:
    """A DataError if the text for perplexity is, in part, that of samples without images."""
    texts = [sample.text for sample in calibration.samples if not sample.images]
    overlap = text_overlap("\n\n".join(texts), report.whole())
    if overlap.is_leak:
        raise DataError(
            f"calibration.source={calibration.name} and evaluation.text={report.name} share "
            f"{overlap.passages} passages, for example {overlap.example!r} ({overlap.longest} "
            "words): calibrate on other texts"
        )


def pixel_digest(image: "Image") -> str:
    """Digest of a picture's size and pixels."""
    shape = f"{image.mode} {image.width} {image.height} "
    return hashlib.sha256(shape.encode() + image.tobytes()).hexdigest()


def _asked_pixels(questions: Questions, row: int) -> str:
    """Digest of an asked image's pixels; empty where it does not decode and nobody sees it."""
    try:
        return pixel_digest(questions.image(row).convert("RGB"))
    except DataError:
        return ""


def own_samples(source: "str | Path | Iterable[Mapping[str, Any]]") -> OwnSamples:
    """Calibration samples of a user's own.

    Args:
        source: A JSON lines file, whose image paths are relative to its folder; or dicts with
            `text` and `image` or `images`, such as a list or a `datasets.Dataset`. An image is a
            path, the bytes of a file, or a PIL image; None is no image.

    Raises:
        DataError: There are no samples, or one is unusable: the message names the first such row.
    """
    if isinstance(source, str | Path):
        file = Path(source).expanduser()
        rows = _file_rows(file)
        name, folder = file.name, file.parent
    else:
        rows = _listed_rows(source)
        name, folder = "samples", Path()
    samples: list[OwnSample] = []
    for row_name, row in rows:
        samples.append(_sample(row_name, row, folder))
    if not samples:
        raise DataError(
            f"{source if isinstance(source, str | Path) else 'the list of samples'} holds no "
            'calibration sample: give rows such as {"image": "cat.png", "text": "What is this?"}'
        )
    contents = [[sample.text, [image.digest for image in sample.images]] for sample in samples]
    return OwnSamples(digest("own samples", contents), tuple(samples), name)


def _file_rows(file: Path) -> Iterator[tuple[str, object]]:
    """The name of each row of a JSON lines file, which says where it stands, and the row."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}): give a JSON lines file of calibration samples"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row_name = f"{file.name}:{number}"
        try:
            yield row_name, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{row_name} is no JSON ({error}): each line of {file} is one sample, such as "
                '{"image": "cat.png", "text": "What is this?"}'
            ) from error


def _listed_rows(source: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, object]]:
    """The name of each row of a list or a dataset, which says where it stands, and the row."""
    rows = _undecoded(source) if hasattr(source, "cast_column") else source
    try:
        iterator = iter(rows)
    except TypeError as error:
        raise DataError(
            f"calibration samples are a list of dicts, a JSON lines file or a dataset, not "
            f"{type(source).__name__}"
        ) from error
    for index, row in enumerate(iterator):
        yield f"samples:{index}", row


def _undecoded(dataset: Any) -> Any:
    """A `datasets` dataset whose images stay encoded until they are used."""
    from datasets import Image, List

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            dataset = dataset.cast_column(name, List(Image(decode=False)))
    return dataset


def _sample(row_name: str, row: object, folder: Path) -> OwnSample:
    """A row as a sample; a DataError that names the row unless it is one."""
    if not isinstance(row, Mapping):
        raise DataError(
            f"{row_name} is of type {type(row).__name__}: a calibration sample is a dict with text "
            "and image"
        )
    for name in row:
        if name not in FIELDS:
            raise DataError(f"{row_name}: {unknown('field', str(name), FIELDS)}. Leave it out")
    text = row.get("text")
    if text is None:
        text = ""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise DataError(f"{row_name}: text={text!r} is of type {kind}: give a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{row_name}: its text is no Unicode text ({error})") from error
    images: list[OwnImage] = []
    for image in _row_images(row_name, row):
        try:
            images.append(_image(image, folder))
        except DataError as error:
            raise DataError(f"{row_name}: {error}") from error
    if not images and not text.strip():
        raise DataError(f"{row_name} has neither a text nor an image: leave it out")
    return OwnSample(row_name, text, tuple(images))


def _row_images(row_name: str, row: Mapping[str, Any]) -> list[Any]:
    """The images of a row as they were given: those of `images`, or the one of `image`."""
    single, several = row.get("image"), row.get("images")
    if single is not None and several is not None:
        raise DataError(f"{row_name} has image and images: give one of them")
    if several is None:
        return [] if single is None else [single]
    if not isinstance(several, list | tuple):
        raise DataError(f"{row_name}: images is of type {type(several).__name__}: give a list")
    return list(several)


def _image(value: Any, folder: Path) -> OwnImage:
    """An image as it was given, after its header was read.

    Raises:
        DataError: it is no image that can be decoded.
    """
    from PIL import ImageOps
    from PIL.Image import Image

    if isinstance(value, dict):  # as `datasets` has it
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        file = folder / Path(value).expanduser()
        try:
            pictures.opened(_file_bytes(file))
        except DataError as error:
            raise DataError(f"image={str(value)!r}: {error}") from error
        return OwnImage(file, file_digest(file)[1])
    if isinstance(value, bytes):
        pictures.opened(value)
        return OwnImage(value, hashlib.sha256(value).hexdigest())
    if isinstance(value, Image):
        try:
            picture = ImageOps.exif_transpose(value).convert("RGB")
        except Exception as error:  # decoders raise many kinds
            raise DataError(f"the image does not decode ({pictures.reason(error)})") from error
        return OwnImage(picture, pixel_digest(picture))
    raise DataError(
        f"an image of type {type(value).__name__} cannot be used: give a path, the bytes of a "
        "file, or a PIL image"
    )


def _file_bytes(file: Path) -> bytes:
    """The bytes of an image's file."""
    if not file.is_file():  # a device or a pipe would be read without end
        raise DataError(f"there is no file {file}")
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
