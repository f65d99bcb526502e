"""A program whose answers everybody can check: it says which of red, green and blue a picture has most of."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from PIL import Image

from scaletut.compress.program import Program, write_program

CLASSES = ("red", "green", "blue")
COLOURS = {"red": (230, 20, 30), "green": (20, 220, 40), "blue": (10, 30, 240)}
SIDE = 16


def colour_program(path: Path, side: int = SIDE) -> Program:
    """Logits are ten times the mean of each channel."""
    weights = numpy_helper.from_array(10 * np.eye(3, dtype=np.float32), "weights")
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "colours", [images], [logits], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    facts = {"class_names": CLASSES, "mean": [0.0] * 3, "std": [1.0] * 3, "side": side}
    return write_program(path, model.SerializeToString(), facts)


def picture(
    colour: str = "red", size: tuple[int, int] = (SIDE, SIDE), form: str = "PNG", mode: str = "RGB", **how
) -> bytes:
    """A file with a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).convert(mode).save(file, form, **how)
    return file.getvalue()
