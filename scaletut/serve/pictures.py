"""From the body of a request to pixels, with a reason for each body that holds none.

A picture is raw (`image/...`), or a file of a form (`multipart/form-data`), or numbers in JSON
(`{"images": [rows of columns of [red, green, blue]]}`, 0 to 255).
"""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from scaletut.data.folder import pixels_of
from scaletut.serve.settings import Refused, Settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # Pillow knows fifty more, whose parsers are seldom looked at
SMALL = 1 << 16  # pixels that are decoded sooner than a thread is woken
MOST_JSON = 1_000_000  # bytes: numbers are parsed while nothing else is served
HOW = "send a picture as image/png or image/jpeg, as a file of a form, or as JSON {'images': [...]}"

Image.init()  # all parsers now, not within the first request
_decoding = ThreadPoolExecutor(1, "decoding")  # one: pictures that take long to decode take one core and no more


async def pictures(headers: Headers, body: bytes, side: int, settings: Settings) -> list[np.ndarray]:
    """The images of a request, uint8 (side, side, 3) each, made square and small as the training images were.

    Raises Refused: 400 for what is damaged, 413 too large, 415 no picture, 422 a picture that cannot be used.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        raise Refused(400, f"the request is empty; {HOW}")
    if kind == "application/json":
        found = _numbers(body, settings.max_images)
        return [await _in_thread(one.width * one.height, _shrink, one, side) for one in found]
    if kind == "multipart/form-data":
        files = await _files(headers, body, settings.max_images)
    elif kind.startswith("image/"):
        files = [body]
    else:
        raise Refused(415, f"{kind[:60] or 'nothing'!r} is not a type that is read here; {HOW}")
    return [await _decoded(file, side, settings.max_pixels) for file in files]


async def _decoded(file: bytes, side: int, most: int) -> np.ndarray:
    with _opened(file) as picture:
        pixels = picture.width * picture.height
        if pixels > most:
            size = f"{picture.width} x {picture.height}"
            raise Refused(413, f"a picture of {size} pixels; at most {most:,} are decoded, so make it smaller")
        return await _in_thread(pixels, _shrink, picture, side)


def _opened(file: bytes) -> Image.Image:
    """The picture with its header read, nothing decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its size is judged by us, with a status
            return Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(415, f"this is no picture of a kind that is read here ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise Refused(413, "a picture of hundreds of millions of pixels; make it smaller") from None
    except Exception as error:  # decoders of damaged files raise anything
        raise Refused(400, f"the picture is damaged: {_line(error)}") from None


def _shrink(picture: Image.Image, side: int) -> np.ndarray:
    try:
        return pixels_of(picture, side)
    except ValueError as error:
        raise Refused(422, f"the picture cannot be used: {_line(error)}") from None
    except Exception as error:
        raise Refused(400, f"the picture is damaged or cut short: {_line(error)}") from None


async def _in_thread(pixels: int, call, picture: Image.Image, side: int) -> np.ndarray:
    if pixels <= SMALL:
        return call(picture, side)
    return await asyncio.get_running_loop().run_in_executor(_decoding, call, picture, side)


def _numbers(body: bytes, most: int) -> list[Image.Image]:
    """Images given as numbers."""
    if len(body) > MOST_JSON:
        raise Refused(413, f"{len(body):,} bytes of JSON; at most {MOST_JSON:,} are read, so send pictures as files")
    try:
        message = from_json(body)
    except ValueError as error:
        raise Refused(400, f"the JSON cannot be read: {_line(error)}") from None
    given = message.get("images") if isinstance(message, dict) else None
    if not isinstance(given, list) or not given:
        raise Refused(422, "the JSON must be {'images': [...]} with one image or more")
    _count(len(given), most)
    return [_image(one) for one in given]


def _image(rows: Sequence) -> Image.Image:
    try:
        pixels = np.array(rows)
    except (ValueError, OverflowError):
        raise Refused(422, "an image must be rows of equal length of [red, green, blue]") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype.kind not in "iu":
        kind = f"{pixels.dtype.kind}{pixels.shape}"
        raise Refused(422, f"an image must be whole numbers of shape (height, width, 3), this is {kind[:60]}")
    if pixels.min() < 0 or pixels.max() > 255:
        raise Refused(422, f"pixels go from 0 to 255, these from {pixels.min()} to {pixels.max()}")
    return Image.fromarray(pixels.astype(np.uint8))


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 60  # the body is in memory already and its size is bounded: no detour by the disk


async def _files(headers: Headers, body: bytes, most: int) -> list[bytes]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemory(headers, whole(), max_files=most + 1, max_fields=16).parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {_line(error)}") from None
    try:
        files = [await value.read() for _, value in form.multi_items() if not isinstance(value, str)]
    finally:
        await form.close()
    if not files:
        raise Refused(422, "the form holds no file; its field must be of type file")
    _count(len(files), most)
    return files


def _count(found: int, most: int) -> None:
    if found > most:
        raise Refused(413, f"more than {most} images in one request; send several requests")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
