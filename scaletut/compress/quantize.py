"""Numbers in 8 bits: the mechanism by hand, and programs quantised by ONNX Runtime.

Sources: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, equations 1 and 12 (scale and zero point); ONNX Runtime's documentation, "Quantize ONNX models".
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaletut.compress.agreement import compare_logits
from scaletut.compress.instructions import instruction_set
from scaletut.compress.program import INPUT, Predictor, Program, read_graph, write_program
from scaletut.errors import DataError, ParameterError

if TYPE_CHECKING:
    import onnx

Method = Literal["minmax", "entropy", "percentile"]
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
CALIBRATION_BATCH = 32
Headroom = Literal["pairs", "bit", "none"]
HEADROOMS = ("pairs", "bit", "none")
LARGEST = 127  # of a weight's level; -128 is left out, so that the grid is symmetric


@dataclass(frozen=True)
class Affine:
    """A uniform grid: the real number `scale` * (level - `zero_point`) for each whole `level` from 0 to 2^bits - 1.

    Attributes:
        scale: distance of neighbouring numbers, above 0.
        zero_point: level that stands for 0 exactly.
        bits: of a level.
    """

    scale: float
    zero_point: int
    bits: int

    @property
    def levels(self) -> int:
        """How many there are."""
        return 2**self.bits

    @property
    def error_bound(self) -> float:
        """A number within the range is at most so far from its nearest on the grid: half a step."""
        return self.scale / 2

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number on the grid."""
        return -self.scale * self.zero_point, self.scale * (self.levels - 1 - self.zero_point)


def affine(low: float, high: float, bits: int = 8) -> Affine:
    """The grid of 2^bits levels for numbers from `low` to `high` (Jacob et al. 2018, equation 12).

    The range is widened to hold 0, and moved by less than a step so that 0 is a level: padding and ReLU need it exact.

    Raises:
        ParameterError: `high` below `low`, a bound that is not finite, or bits outside 1 to 16.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high and 1 <= bits <= 16):
        raise ParameterError(f"no grid for {low} to {high} in {bits} bits: give low <= high, finite, and 1 to 16 bits")
    low, high = min(low, 0.0), max(high, 0.0)
    steps = 2**bits - 1
    scale = (high - low) / steps or 1.0  # nothing but zeros: any scale does
    return Affine(float(scale), int(np.clip(round(-low / scale), 0, steps)), bits)


def quantise(values: np.ndarray, grid: Affine) -> np.ndarray:
    """The nearest levels, uint8 (uint16 above 8 bits), in the shape of `values`; beyond the range the last level."""
    levels = np.rint(np.asarray(values) / grid.scale) + grid.zero_point
    return np.clip(levels, 0, grid.levels - 1).astype(np.uint8 if grid.bits <= 8 else np.uint16)


def dequantise(levels: np.ndarray, grid: Affine) -> np.ndarray:
    """The numbers that `levels` stand for, float32, in their shape."""
    return (grid.scale * (levels.astype(np.int32) - grid.zero_point)).astype(np.float32)


def weight_scales(
    weight: np.ndarray, *, groups: int = 1, per_channel: bool = True, headroom: Headroom = "pairs"
) -> np.ndarray:
    """Steps of the int8 grids around 0 for the weights of a layer, float64 (out,), above 0.

    Processors without VNNI multiply an activation (0 to 255) with a weight (-127 to 127) and add two such products to
    16 bits with saturation: 2 x 255 x 127 is beyond them, and a sum that saturates is silently wrong. With `pairs` a
    step is so long that no two weights that meet in such a sum add up to more than 128, since 255 x 128 is not beyond.
    That costs less than a whole bit, because the largest weights of a channel are seldom neighbours.

    Args:
        weight: float (out, in / groups, ...), of a convolution or a linear layer.
        groups: of the convolution; where each has one channel (depthwise) kernels add to 32 bits and nothing is kept.
        per_channel: False gives all channels the longest step of any.
        headroom: `pairs` as above; `bit` keeps every weight to 64, as ONNX Runtime advises (its `reduce_range`);
            `none` uses all 8 bits, for processors that have VNNI or its like.

    Raises:
        ParameterError: an unknown headroom.
    """
    if headroom not in HEADROOMS:
        raise ParameterError(f"headroom is {headroom!r}: take one of {', '.join(HEADROOMS)}")
    weight = np.asarray(weight, np.float64)
    reach = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    if groups == 1 or weight.shape[1] > 1:
        reach = {"pairs": _pair_reach(weight), "bit": reach * LARGEST / 64, "none": reach}[headroom]
    scales = np.where(reach > 0, reach, 1.0) / LARGEST
    return scales if per_channel else np.full_like(scales, scales.max())


def _pair_reach(weight: np.ndarray) -> np.ndarray:
    """The largest sum of two weights of one sign that meet in 16 bits, or of one alone: float (out,).

    They are neighbours in the order in which a kernel walks: row, column, channel, two by two from the start. With an
    odd number of channels some kernels fill up each pixel with a 0, others pair across pixels: both are heeded.
    """
    walked = np.moveaxis(weight.reshape(len(weight), weight.shape[1], -1), 1, 2)  # (out, pixel, channel)
    sums = []
    for flat in (walked, walked.reshape(len(weight), 1, -1)):
        even = np.pad(flat, ((0, 0), (0, 0), (0, flat.shape[2] % 2)))
        for side in (np.maximum(even, 0), np.maximum(-even, 0)):
            sums.append((side[..., 0::2] + side[..., 1::2]).reshape(len(weight), -1).max(axis=1))
    return np.max(sums, axis=0)


def quantise_static(
    program: Program,
    path: Path | str,
    images: np.ndarray,
    *,
    method: Method = "minmax",
    exclude: Sequence[str] = (),
    per_channel: bool = True,
    headroom: Headroom = "pairs",
    check: np.ndarray | None = None,
    tolerance: float = 0.1,
) -> Program:
    """A program that computes in int8, its ranges fixed beforehand on `images`.

    Activations become uint8, a grid a tensor; weights int8 around 0, a grid an output channel (`weight_scales`).

    Args:
        program: in float, from `export`.
        path: of the new file; written whole or not at all.
        images: uint8 (n, side, side, 3) of the training set (some hundred suffice), to find the ranges.
        method: of finding a range: the extremes (`minmax`), the one that loses least information (`entropy`), or all
            but the outermost 0.001 % (`percentile`).
        exclude: names of nodes that stay in float (`nodes` lists them).
        per_channel: False gives all weights of a layer one grid.
        headroom: of the weights, see `weight_scales`.
        check: uint8 (n, side, side, 3) to compare with the float program on; by default the first 1,000 of `images`.
        tolerance: largest share of them that may change class.

    Raises:
        DataError: more images than that change class, or logits are not finite; no file is left.
        ParameterError: no images, an unknown method or node, or a program that is quantised already.
    """
    _need_float(program)
    if method not in METHODS:
        raise ParameterError(f"method is {method!r}: take one of {', '.join(METHODS)}")
    if not len(images):
        raise ParameterError("there are no images to find the ranges on: give some hundred of the training set")
    if unknown := set(exclude) - set(nodes(program)):
        raise ParameterError(f"there is no node {sorted(unknown)[0]!r} to exclude: nodes(program) lists them")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    source = program.predictor()
    batches = [source.prepare(images[at : at + CALIBRATION_BATCH]) for at in range(0, len(images), CALIBRATION_BATCH)]
    with _quantised(program) as (model, target):
        quantize_static(
            model,
            target,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(exclude),
            calibrate_method=CalibrationMethod[METHODS[method]],
            # A batch at a time: the histograms of all of them would be made from all activations at once.
            extra_options={
                "CalibStridedMinMax": 1,
                "CalibTensorRangeSymmetric": False,
                "TensorQuantOverrides": _weight_ranges(model, per_channel, headroom),
            },
        )
        graph = _serialised(target)
    step = {
        "step": "quantise_static",
        "method": method,
        "images": len(images),
        "per_channel": per_channel,
        "headroom": headroom,
        "excluded": sorted(exclude),
    }
    return _written(program, path, graph, step, images[:1000] if check is None else check, tolerance)


def quantise_dynamic(
    program: Program,
    path: Path | str,
    *,
    check: np.ndarray,
    tolerance: float = 0.1,
) -> Program:
    """A program with int8 weights whose activations get their ranges while it runs, anew for each batch.

    It needs no images to calibrate on. Convolutions become `ConvInteger`, which ONNX Runtime has not made fast
    (onnxruntime issue 12854): on convolutional nets expect it to be slower than float, and measure how much.

    Args:
        program: in float, from `export`.
        path: of the new file; written whole or not at all.
        check: uint8 (n, side, side, 3) to compare with the float program on.
        tolerance: largest share of the images that may change class.

    Raises:
        DataError, ParameterError: as `quantise_static`.
    """
    _need_float(program)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quantised(program) as (model, target):
        quantize_dynamic(model, target, weight_type=QuantType.QUInt8)
        graph = _serialised(target)
    return _written(program, path, graph, {"step": "quantise_dynamic"}, check, tolerance)


def nodes(program: Program) -> dict[str, str]:
    """Name and operator of each node of a program's graph, in their order."""
    import onnx

    return {node.name: node.op_type for node in onnx.ModelProto.FromString(read_graph(program)).graph.node}


def _weight_ranges(model: onnx.ModelProto, per_channel: bool, headroom: Headroom) -> dict[str, list[dict[str, Any]]]:
    """For ONNX Runtime's quantiser: the range of each weight's grids."""
    from onnx import helper, numpy_helper

    weights = {one.name: one for one in model.graph.initializer}
    ranges = {}
    for node in model.graph.node:
        options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        axis = 0 if node.op_type == "Conv" or options.get("transB") else 1
        scales = weight_scales(
            np.moveaxis(weight, axis, 0), groups=options.get("group", 1), per_channel=per_channel, headroom=headroom
        )
        limits = [{"rmin": np.float32(-LARGEST * one), "rmax": np.float32(LARGEST * one)} for one in scales]
        ranges[node.input[1]] = [limit | {"axis": axis} for limit in limits] if per_channel else limits[:1]
    return ranges


class _Reader:
    """Batches in the form in which ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self._batches, self._next = batches, iter(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._next, None)
        return None if batch is None else {INPUT: batch}


def _need_float(program: Program) -> None:
    if program.manifest["precision"] != "float32":
        raise ParameterError(
            f"{program.path.name} is {program.manifest['precision']} already: quantise the program in float"
        )


@contextlib.contextmanager
def _quantised(program: Program) -> Iterator[tuple[onnx.ModelProto, str]]:
    """The program's model for ONNX Runtime's quantiser, and a place for its result that is gone afterwards."""
    import onnx

    model = onnx.ModelProto.FromString(read_graph(program))
    mark = model.metadata_props.add()  # that it is prepared (norms folded, constants too); else it is advised to be
    mark.key, mark.value = "onnx.quant.pre_process", "onnxruntime.quant"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # calibration prints
        yield model, str(Path(folder) / "quantised.onnx")


def _serialised(path: str) -> bytes:
    import onnx

    from scaletut.compress.graph import serialised

    return serialised(onnx.load(path))


def _written(
    program: Program, path: Path | str, graph: bytes, step: dict[str, Any], images: np.ndarray, tolerance: float
) -> Program:
    """The quantised program, if it agrees with the one in float."""
    facts = dict(program.manifest)
    facts |= {
        "precision": "int8 " + step["step"].removeprefix("quantise_"),
        "steps": [*facts["steps"], step],
        "instruction_set": instruction_set(),
        "source": {"sha256": facts["sha256"], "agreement": facts["agreement"]},
    }
    result = compare_logits(program.logits(images), Predictor(graph, facts, 1, "all")(images))
    if not 1 - result.same_class <= tolerance:
        raise DataError(
            f"{1 - result.same_class:.1%} of {result.images} images change class by {step['step']}, allowed are "
            f"{tolerance:.1%}: try method='percentile', exclude the first layers, or train with quantisation_aware; "
            "no file was written"
        )
    compared = {"against": "float program", **asdict(result), "tolerance": tolerance}
    return write_program(path, graph, facts | {"agreement": compared})
