"""A program: a network exported to one ONNX file, with a manifest that says what it is and how it was checked.

The manifest is the last field of the file, an ordinary `metadata_props` entry, and holds a digest of all that stands
before it: a byte that changed is found before anything is run. No torch is needed to load and run a program.

Source: the ONNX IR specification (`ModelProto`) and the Protocol Buffers wire format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from scaletut.errors import DataError, ParameterError
from scaletut.files import atomic_write, canonical_json, sha256_bytes

KEY = "scaletut"  # of the metadata entry
FORMAT = 1
INPUT, OUTPUT = "images", "logits"  # float32 (n, 3, side, side) normalised, float32 (n, classes)
_METADATA_PROPS = 14  # number of the field in ModelProto
_VARINT, _BYTES = 0, 2  # wire types

Level = Literal["off", "basic", "extended", "all"]
LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Predictor:
    """A program made ready to run: graph optimised, weights packed. Safe to call from several threads."""

    def __init__(self, content: bytes, manifest: Mapping[str, Any], threads: int, level: Level) -> None:
        self.manifest = manifest
        self.session = open_session(content, threads, level)
        mean, std = (np.asarray(manifest[name], np.float64) for name in ("mean", "std"))
        self._scale, self._shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, side, side, 3) to normalised float32 (n, 3, side, side).

        Raises:
            DataError: images of another shape or type.
        """
        side = self.manifest["side"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise DataError(
                f"images are {images.dtype} {images.shape}, this program takes uint8 (n, {side}, {side}, 3): "
                "resize them before"
            )
        return np.ascontiguousarray((images * self._scale + self._shift).transpose(0, 3, 1, 2))

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Logits float32 (n, K) of a batch that `prepare` made."""
        return self.session.run([OUTPUT], {INPUT: batch})[0]

    def __call__(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Logits float32 (n, K) of uint8 (n, side, side, 3), `batch_size` at a time."""
        if batch_size < 1:
            raise ParameterError(f"batch_size is {batch_size}: give at least 1")
        parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
        logits = [self.run(self.prepare(part)) for part in parts]
        return np.concatenate(logits) if logits else np.empty((0, len(self.manifest["class_names"])), np.float32)


@dataclass(frozen=True)
class Program:
    """An exported network on disk.

    Attributes:
        path: the ONNX file.
        manifest: plain JSON. `class_names`; `mean`, `std` (of the channels, in 0..1 units); `side` in pixels;
            `precision` (`float32`, `int8 static`, `int8 dynamic`); `net` and `steps`, what was exported and what had
            been done to it; `agreement`, how it was compared with what it was made from; `sha256`, of graph and
            manifest; further facts.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: Path | str) -> Program:
        """Read a program's manifest and check its digest; nothing is run.

        Raises:
            DataError: the file is absent, damaged, altered, or another's.
        """
        path = Path(path)
        return cls(path, _checked(path)[1])

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a logit."""
        return tuple(self.manifest["class_names"])

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.manifest["side"]

    def predictor(self, *, threads: int = 1, level: Level = "all") -> Predictor:
        """The program made ready to run, with the file's bytes checked once more.

        Args:
            threads: that share one call.
            level: how far ONNX Runtime may rewrite the graph: `off`, `basic` (constants folded, what is unused
                removed), `extended` (operators fused), `all` (memory layout too).
        """
        content, manifest = _checked(self.path)
        return Predictor(content, manifest, threads, level)

    def session(self, threads: int = 1, level: Level = "all") -> onnxruntime.InferenceSession:
        """The bare session: input `images`, float32 (n, 3, side, side) normalised; output `logits`."""
        return self.predictor(threads=threads, level=level).session

    def logits(self, images: np.ndarray, *, threads: int = 1, batch_size: int = 64) -> np.ndarray:
        """Logits float32 (n, K) of uint8 (n, side, side, 3).

        Loads the file each time; keep a `predictor` for many calls.
        """
        return self.predictor(threads=threads)(images, batch_size)


def open_session(content: bytes, threads: int = 1, level: Level = "all") -> onnxruntime.InferenceSession:
    """A session on the CPU of a serialised ONNX model.

    Raises:
        ParameterError: fewer than one thread, or an unknown level.
        DataError: ONNX Runtime refuses the model.
    """
    if threads < 1 or level not in LEVELS:
        raise ParameterError(f"threads={threads} must be 1 or more, and level={level!r} one of {', '.join(LEVELS)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3  # errors only: they come as exceptions too
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class for each status and no common one but this
        first = str(error).splitlines()[0]
        raise DataError(f"ONNX Runtime cannot load the model ({first}): export it again with these versions") from error


def write_program(path: Path | str, graph: bytes, facts: Mapping[str, Any]) -> Program:
    """Write a serialised ONNX model without metadata and its manifest to one file, whole or not at all.

    Raises:
        ParameterError: a fact that JSON cannot hold.
    """
    try:
        manifest = {**facts, "format": FORMAT, "graph_bytes": len(graph)}
        manifest["sha256"] = _digest(graph, manifest)
        text = canonical_json(manifest)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the manifest cannot be written as JSON ({error}): give plain finite values") from error
    return Program(atomic_write(path, graph + _entry(text)), json.loads(text))


def read_graph(program: Program) -> bytes:
    """The serialised ONNX model of a program, without its manifest."""
    content, manifest = _checked(program.path)
    return content[: manifest["graph_bytes"]]


def _checked(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and its manifest, if both are as they were written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}): check the path of the program") from error
    try:
        start, manifest = _manifest(content)
        whole = manifest["format"] == FORMAT and manifest["sha256"] == _digest(content[:start], manifest)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path.name} is not a program of scaletut: it was damaged, or made by another tool; "
            "export it with scaletut.compress.export"
        ) from error
    if not whole:
        raise DataError(
            f"{path.name} was altered or written by another version: its content does not match its manifest; "
            "export it again"
        )
    return content, manifest


def _digest(graph: bytes, manifest: Mapping[str, Any]) -> str:
    """sha256 of the graph and of all that the manifest says beside it."""
    others = {key: value for key, value in manifest.items() if key != "sha256"}
    return sha256_bytes(sha256_bytes(graph).encode() + canonical_json(others).encode())


def _manifest(content: bytes) -> tuple[int, dict[str, Any]]:
    """Where the last field of a serialised `ModelProto` starts, and the JSON in it. ValueError unless it is ours."""
    number, start, body = 0, 0, b""
    for number, start, body in _fields(content):  # noqa: B007  (the last one counts)
        pass
    parts = {part: text for part, _, text in _fields(body)} if number == _METADATA_PROPS else {}
    if parts.get(1) != KEY.encode():
        raise ValueError("no manifest")
    manifest = json.loads(parts[2])
    if not isinstance(manifest, dict):
        raise TypeError("the manifest is not an object")
    return start, manifest


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, first byte and content of each field of a protobuf message (content of numbers: empty)."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _read_varint(message, at)
        length = 0
        if tag & 7 == _VARINT:
            _, at = _read_varint(message, at)
        elif tag & 7 == _BYTES:
            length, at = _read_varint(message, at)
        else:
            raise ValueError("a wire type that ModelProto does not use")
        if at + length > len(message):
            raise ValueError("cut short")
        yield tag >> 3, start, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A base-128 number, least significant group first, and the place behind it."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _entry(text: str) -> bytes:
    """A `metadata_props` entry as bytes that may be appended to a serialised `ModelProto`."""
    pair = b"".join(_field(number, part.encode()) for number, part in ((1, KEY), (2, text)))
    return _field(_METADATA_PROPS, pair)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])
