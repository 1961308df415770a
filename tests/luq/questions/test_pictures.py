"""Encoded pictures: upright, within limits, and the same words for the same fault."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

from luq.errors import DataError
from luq.questions.pictures import FORMATS, MAX_PIXELS, decoded, reason, size_of


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def marked(width: int = 90, height: int = 60) -> Image.Image:
    """White, with the top left corner black."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 20, 10), fill="black")
    return image


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(marked(), "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_as_datasets_turns_them(orientation: int) -> None:
    content = turned(orientation)
    theirs = Dataset.from_list(
        [{"image": {"bytes": content, "path": None}}],
        features=Features({"image": ImageFeature()}),
    )
    ours = decoded(content)
    assert ours.size == ((60, 90) if orientation > 4 else (90, 60))
    assert ours.tobytes() == theirs[0]["image"].convert("RGB").tobytes()
    assert size_of(content) == ours.size


@pytest.mark.parametrize("content", [None, b"", b"no picture", turned(6)[:20]])
def test_what_is_no_picture_has_no_size(content: bytes | None) -> None:
    with pytest.raises(DataError, match=r"does not decode|no bytes"):
        size_of(content)


def test_orientation_6_is_a_quarter_turn_clockwise() -> None:
    assert decoded(turned(6)).getpixel((55, 5)) == (0, 0, 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_datasets_are_read(kind: str) -> None:
    assert decoded(encoded(marked(), kind)).size == (90, 60)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "ICO", "TGA"])
def test_other_formats_are_not(kind: str) -> None:
    with pytest.raises(DataError, match="in none of the formats BMP, GIF, JPEG, PNG, WEBP"):
        decoded(encoded(marked(), kind))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    picture = Image.new(mode, (9, 6))
    assert decoded(encoded(picture, kind)).mode == "RGB"


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def huge_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel: a few kilobytes for many megapixels."""
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("side", [8193, 12_000, 20_000])
def test_more_pixels_than_the_limit_are_not_decoded(side: int) -> None:
    content = huge_png(side, side)
    assert len(content) < 100_000
    with pytest.raises(DataError, match=r"more pixels than are decoded \(67 million\)"):
        decoded(content)


def test_the_limit_itself_is_decoded() -> None:
    assert MAX_PIXELS == 8192 * 8192
    assert decoded(huge_png(8192, 8192), "1").size == (8192, 8192)


BROKEN = [
    None,
    b"",
    b"no image",
    encoded(marked())[:60],
    encoded(marked())[:-40],
    encoded(marked(), "JPEG")[:300],
    encoded(marked())[:30] + b"\xff" * 200,
    turned(6)[:700],
]


@pytest.mark.parametrize("content", BROKEN)
def test_what_does_not_decode_says_the_same_every_time(content: bytes | None) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(DataError) as error:
            decoded(content)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "0x" not in said[0]


def test_reasons_hold_no_addresses() -> None:
    holder = object()
    assert reason(ValueError(f"cannot read {holder} at {id(holder):#x}")) == (
        "ValueError: cannot read an object at an object"
    )
    assert reason(StopIteration()) == "StopIteration"
    assert reason(ValueError("first\nsecond")) == "ValueError: first"


def test_a_path_in_a_row_is_not_opened(tmp_path: Path) -> None:
    """Rows come from outside: they do not say which files of this machine are read."""
    from luq.questions.tables import LazyImage

    file = tmp_path / "secret.png"
    file.write_bytes(encoded(marked()))
    table = Dataset.from_list([{"image": {"bytes": None, "path": str(file)}}])
    with pytest.raises(DataError, match="gqa row 0: there are no bytes of an image"):
        LazyImage(table, 0, "gqa row 0").convert()
