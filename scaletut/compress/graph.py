"""From a network to a program: norms folded into the layers before them, the graph exported to ONNX and compared.

Sources: S. Ioffe, C. Szegedy, "Batch Normalization", ICML 2015, section 3.1 (at inference a norm is a fixed linear
map); B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 3.2 and equation 14 (folding).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scaletut.compress.agreement import compare_logits
from scaletut.compress.instructions import instruction_set
from scaletut.compress.program import INPUT, OUTPUT, Predictor, Program, write_program
from scaletut.data import to_tensor
from scaletut.errors import DataError, ParameterError
from scaletut.models.build import seeded
from scaletut.models.hooks import observe
from scaletut.models.norms import BATCH_NORMS
from scaletut.models.surgery import add_step, set_layer, steps_of

OPSET = 20
FOLD_TOLERANCE = 1e-5  # relative to the largest output
LAYERS = (nn.Conv2d, nn.Linear)

Normalisation = tuple[Sequence[float], Sequence[float]]


def fold_norms(net: nn.Module, *, side: int = 32) -> nn.Module:
    """A copy without the batch norms that follow a convolution or a linear layer: these take over their work.

    In evaluation mode a norm computes (x - mean) / sqrt(var + eps) * weight + bias with fixed numbers, so with
    s = weight / sqrt(var + eps) the layer before it may use the weights s W and the bias s (b - mean) + bias. A max
    pool between the two is no obstacle where s > 0, since then max(s x) = s max(x).

    Args:
        net: any network; which layer feeds which norm is seen by running it once.
        side: of the images that it takes, in pixels.

    Returns:
        The copy in evaluation mode (in training mode the norms of the original would do something else).

    Raises:
        ParameterError: the outputs of the copy differ by more than 1e-5 of the largest: the output of a folded layer
            is used elsewhere too.
    """
    folded = copy.deepcopy(net).eval()
    with seeded(0):
        images = torch.randn(2, 3, side, side).to(next(folded.parameters(), torch.empty(0)))
    pairs = norm_pairs(folded, images)
    with torch.no_grad():
        before = folded(images)
        for norm, layer in pairs.items():
            _fold(folded, norm, layer)
        error = float((folded(images) - before).abs().max() / before.abs().max().clamp_min(1e-30))
    if not error <= FOLD_TOLERANCE:
        raise ParameterError(
            f"outputs changed by {error:.1e} of the largest: a layer's output goes to its norm and elsewhere; "
            "leave the norms of this network unfolded"
        )
    return add_step(folded, {"step": "fold_norms", "norms": len(pairs)})


def norm_pairs(net: nn.Module, images: Tensor) -> dict[str, str]:
    """Names of the norms whose input is the output of a layer, and of that layer."""
    names = {module: name for name, module in net.named_modules()}
    made_by: dict[int, nn.Module] = {}  # layer of a tensor, by its id
    pooled: dict[int, nn.Module] = {}  # the same with a max pool between
    alive, pairs = [], {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        alive.append(output)  # an id is another's as soon as its tensor is gone
        given = id(inputs[0])
        if isinstance(module, LAYERS):
            made_by[id(output)] = module
        elif isinstance(module, nn.MaxPool2d) and given in made_by:
            pooled[id(output)] = made_by[given]
        elif isinstance(module, BATCH_NORMS) and given in made_by:
            pairs[names[module]] = names[made_by[given]]
        elif isinstance(module, BATCH_NORMS) and given in pooled and bool((_scale(module) > 0).all()):
            pairs[names[module]] = names[pooled[given]]

    watched = [module for module in net.modules() if isinstance(module, (*LAYERS, *BATCH_NORMS, nn.MaxPool2d))]
    observe(net, images, watched, note)
    return pairs


def _scale(norm: nn.Module) -> Tensor:
    """s = weight / sqrt(var + eps), float64 (channels,)."""
    weight = 1.0 if norm.weight is None else norm.weight.double()
    return weight / (norm.running_var.double() + norm.eps).sqrt()


def _fold(net: nn.Module, norm_name: str, layer_name: str) -> None:
    norm, layer = net.get_submodule(norm_name), net.get_submodule(layer_name)
    scale, shift = _scale(norm), 0.0 if norm.bias is None else norm.bias.double()
    weight, bias = layer.weight, 0.0 if layer.bias is None else layer.bias.double()
    folded = shift + (bias - norm.running_mean.double()) * scale
    layer.weight.data = (weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))).to(weight)
    layer.bias = nn.Parameter(folded.to(weight))
    set_layer(net, norm_name, nn.Identity())


def export(
    net: nn.Module,
    path: Path | str,
    *,
    normalisation: Normalisation,
    class_names: Sequence[str],
    images: np.ndarray,
    side: int | None = None,
    tolerance: float = 1e-3,
) -> Program:
    """Export a network to an ONNX program for any batch size, and compare the two.

    Args:
        net: in float; it is run in evaluation mode on the CPU, and not touched.
        path: of the file, usually ending in `.onnx`; written whole or not at all.
        normalisation: mean and deviation of the channels in 0..1 units, as the network expects them.
        class_names: one an output.
        images: uint8 (n, side, side, 3) to compare on; 1,000 are the book's convention.
        side: of the images; by default that of `images`.
        tolerance: largest difference of any logit between network and program.

    Returns:
        The program. Its manifest says what was compared, and how near the two came.

    Raises:
        DataError: the program's logits differ by more than `tolerance`, or are not finite; no file is left.
        ParameterError: images, class names, side and network do not fit together, or the network cannot be exported.
    """
    side = side or images.shape[1]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3) or not len(images):
        raise ParameterError(f"images are {images.dtype} {images.shape}: give uint8 (n, {side}, {side}, 3), n above 0")
    plain = copy.deepcopy(net).float().cpu().to(memory_format=torch.contiguous_format).eval()
    expected = eager_logits(plain, images, normalisation)
    compare_logits(expected, expected)  # finite, before the long part starts
    if expected.shape[1] != len(class_names):
        raise ParameterError(f"{len(class_names)} class names for {expected.shape[1]} outputs: give one each")
    graph = _to_onnx(_folded(plain, side), side)
    facts = {
        "precision": "float32",
        "class_names": [str(name) for name in class_names],
        "mean": [float(one) for one in normalisation[0]],
        "std": [float(one) for one in normalisation[1]],
        "side": int(side),
        "net": plain.spec.to_dict() if hasattr(plain, "spec") else None,
        "steps": list(steps_of(plain)),
        "instruction_set": instruction_set(),
        "made_with": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    }
    found = Predictor(graph, facts, 1, "all")(images)
    return write_program(path, graph, facts | {"agreement": checked(expected, found, "eager", tolerance)})


def checked(expected: np.ndarray, found: np.ndarray, against: str, tolerance: float) -> dict[str, Any]:
    """The manifest's entry about a comparison with `against`.

    Raises:
        DataError: a difference above `tolerance`.
    """
    result = compare_logits(expected, found)
    if not result.largest_difference <= tolerance:
        raise DataError(
            f"the program differs from {against} by up to {result.largest_difference:.3g} in a logit "
            f"({result.same_class:.1%} of {result.images} images keep their class), allowed is {tolerance:g}: "
            "usually an operator that is exported wrongly; no file was written"
        )
    return {"against": against, **asdict(result), "tolerance": tolerance}


def eager_logits(net: nn.Module, images: np.ndarray, normalisation: Normalisation, batch_size: int = 100) -> np.ndarray:
    """Logits float32 (n, K) of uint8 (n, h, w, 3) on the CPU in float32, in the network's own mode."""
    parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
    with torch.inference_mode():
        logits = [net(to_tensor(part, *normalisation, channels_last=False)) for part in parts]
    return torch.cat(logits).numpy()


def _folded(net: nn.Module, side: int) -> nn.Module:
    """The exporter folds norms too, but not across a pool; where it cannot be done by hand it is left to it."""
    try:
        return fold_norms(net, side=side)
    except ParameterError:
        return net


def _to_onnx(net: nn.Module, side: int) -> bytes:
    """A serialised ONNX model with constants folded, and without what names the machine that made it."""
    example = torch.zeros(2, 3, side, side)  # a batch of 1 would be taken for a constant
    try:
        with _quiet():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # the exporter has classes of many packages
        first = str(error).strip().splitlines()[0]
        raise ParameterError(
            f"the network cannot be exported ({type(error).__name__}: {first}): usually its forward pass depends on "
            "values, not only on shapes; write it without such branches"
        ) from error
    return serialised(program.model_proto)


def serialised(model: Any) -> bytes:
    """Bytes of an ONNX `ModelProto` without metadata, comments and shapes of intermediate results.

    The exporter writes a stack trace beside every node: paths of this machine, and more bytes than a small net has.
    """
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.ClearField("value_info")
    return model.SerializeToString(deterministic=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, which are about its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
