"""Encoded pictures as they are seen: turned upright, and within limits of format and size.

A picture is data from outside. Only the formats that vision datasets hold are decoded, and no
picture of more than `MAX_PIXELS`: a file of a few kilobytes can stand for gigabytes of pixels.
"""

import re
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

from luq.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
MAX_PIXELS = 2**26  # 67 megapixels: four times the largest page of the nine benchmarks
LYING = (5, 6, 7, 8)  # orientations of EXIF data by which a picture is turned on its side
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}")


def reason(error: BaseException) -> str:
    """What an error says, in the same words every time: its kind and its first line.

    Without addresses in memory, which differ from process to process.
    """
    lines = str(error).strip().splitlines()
    words = _ADDRESS.sub("an object", lines[0]) if lines else ""
    kind = type(error).__name__
    return f"{kind}: {words}" if words else kind


def _with_header(encoded: bytes | None) -> "Image":
    """A picture whose header was read, as it is stored; a DataError as `opened`."""
    from PIL import Image, UnidentifiedImageError

    if not encoded:
        raise DataError("there are no bytes of an image")
    try:
        with warnings.catch_warnings():
            # Pillow warns of many pixels before the limit below is compared.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(_too_large()) from error
    except UnidentifiedImageError as error:
        format_names = ", ".join(FORMATS)
        raise DataError(
            f"the image does not decode: it is in none of the formats {format_names}"
        ) from (error)
    except Exception as error:  # decoders raise many kinds
        raise DataError(f"the image does not decode ({reason(error)})") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise DataError(_too_large())
    return picture


def opened(encoded: bytes | None) -> "Image":
    """A picture whose header was read; its pixels are decoded when they are asked for.

    A picture that its EXIF data turns is decoded and turned, as `datasets` and lmms-eval do it.

    Args:
        encoded: the bytes of a file.

    Raises:
        DataError: there are none, their format is not one of `FORMATS`, they stand for more than
            `MAX_PIXELS`, or they do not decode.
    """
    from PIL import ExifTags, ImageOps

    picture = _with_header(encoded)
    try:
        if picture.getexif().get(ExifTags.Base.Orientation) is not None:
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # decoders raise many kinds
        raise DataError(f"the image does not decode ({reason(error)})") from error
    return picture


def size_of(encoded: bytes | None) -> tuple[int, int]:
    """The width and height of a picture as it is seen, from its header: no pixel is decoded.

    Raises:
        DataError: as `opened`.
    """
    from PIL import ExifTags

    picture = _with_header(encoded)
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # decoders raise many kinds
        raise DataError(f"the image does not decode ({reason(error)})") from error
    width, height = picture.size
    return (height, width) if orientation in LYING else (width, height)


def decoded(encoded: bytes | None, mode: str = "RGB") -> "Image":
    """A picture [height, width] with its pixels in a mode of Pillow.

    Raises:
        DataError: as `opened`, or the pixels do not decode.
    """
    picture = opened(encoded)
    try:
        return picture.convert(mode)
    except Exception as error:  # decoders raise many kinds
        raise DataError(f"the image does not decode ({reason(error)})") from error


def _too_large() -> str:
    return f"the image has more pixels than are decoded ({MAX_PIXELS / 1e6:.0f} million)"
