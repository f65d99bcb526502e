"""Folded norms and exported graphs compute what the network computes, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compress_cases import CLASSES, NORMALISATION, data, exported, images, settled, trained
from torch import Tensor, nn
from torch.nn import functional as F

from scaletut.compress import compare_logits, export, fold_norms, nodes
from scaletut.compress import graph as graph_module
from scaletut.compress.program import read_graph
from scaletut.errors import DataError, ParameterError
from scaletut.train import predict

HOW = {"normalisation": NORMALISATION, "class_names": CLASSES}


@pytest.mark.parametrize(
    ("name", "width", "norms"), [("resnet8", 0.5, 9), ("plain8", 0.5, 7), ("speednet-s", 0.25, 6), ("tutorial", 0.5, 0)]
)
def test_folded_norms_leave_the_outputs_as_they_were(name: str, width: float, norms: int) -> None:
    net = settled(name, width=width).double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold_norms(net)
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert folded.steps == ({"step": "fold_norms", "norms": norms},)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_norm_of_negative_scale_stays_behind_its_pool() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4))
    net[2].weight.data[1] = -1.0
    net[2].running_var.fill_(2.0)
    assert any(isinstance(module, nn.BatchNorm2d) for module in fold_norms(net).modules())


class Twice(nn.Module):
    """The layer's output goes to its norm and past it: folding would change the second way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


def test_a_layer_that_feeds_more_than_its_norm_is_not_folded(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="elsewhere"):
        fold_norms(Twice())
    some = images(5, side=8)
    program = export(Twice(), tmp_path / "a.onnx", normalisation=NORMALISATION, class_names="abcd", images=some)
    assert program.manifest["agreement"]["largest_difference"] < 1e-5


def test_the_program_gives_what_training_s_own_predict_gives() -> None:
    result, program = trained(), exported()
    logits = program.logits(data().test.images)
    np.testing.assert_allclose(logits, predict(result.model, data().test, result.normalisation), atol=1e-4)
    told = program.manifest["agreement"]
    assert told["images"] == 300
    assert told["largest_difference"] < 1e-4
    assert program.manifest["net"] == {"name": "resnet8", "num_classes": 10, "width": 0.5}
    assert set(nodes(program).values()) == {"Conv", "Relu", "Add", "ReduceMean", "Reshape", "Gemm"}


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    again = export(
        trained().model,
        tmp_path / "again.onnx",
        normalisation=trained().normalisation,
        class_names=data().train.class_names,
        images=data().test.images,
    )
    assert again.path.read_bytes() == exported().path.read_bytes()


class Resized(nn.Module):
    """Resizes inside, as EfficientNet-Lite0 does."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.conv = side, nn.Conv2d(3, 10, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        shrinks = x.shape[-1] > self.side
        x = F.interpolate(x, size=(self.side,) * 2, mode="bilinear", align_corners=False, antialias=shrinks)
        return self.conv(x).amax((2, 3))


@pytest.mark.parametrize("side", [24, 12], ids=["larger", "smaller, smoothed"])
def test_resizing_inside_the_graph_agrees(side: int, tmp_path: Path) -> None:
    program = export(Resized(side), tmp_path / "a.onnx", images=images(8, side=16), **HOW)
    assert program.manifest["agreement"]["largest_difference"] < 1e-4


def test_one_weight_that_is_exported_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.ModelProto.FromString(read_graph(exported()))
    weight = next(one for one in model.graph.initializer if len(one.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    monkeypatch.setattr(graph_module, "_to_onnx", lambda net, side: model.SerializeToString())
    how = {"normalisation": trained().normalisation, "class_names": CLASSES, "images": data().test.images}
    with pytest.raises(DataError, match="no file was written"):
        export(trained().model, tmp_path / "a.onnx", **how)
    assert not list(tmp_path.iterdir())


def test_a_diverged_network_is_refused(tmp_path: Path) -> None:
    net = settled("plain8", width=0.25)
    net.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        export(net, tmp_path / "a.onnx", images=images(5), **HOW)
    assert not list(tmp_path.iterdir())


class Choosy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))


def test_what_cannot_be_exported_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be exported") as error:
        export(Choosy(), tmp_path / "a.onnx", normalisation=NORMALISATION, class_names="abc", images=images(5))
    assert "\n" not in str(error.value)


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    net = settled("plain8", width=0.25)
    for wrong in (images(0), images(3)[..., :1], images(3).astype(float)):
        with pytest.raises(ParameterError, match="uint8"):
            export(net, tmp_path / "a.onnx", images=wrong, **HOW)
    with pytest.raises(ParameterError, match="64"):
        export(net, tmp_path / "a.onnx", images=images(3), side=64, **HOW)
    with pytest.raises(ParameterError, match="class names"):
        export(net, tmp_path / "a.onnx", images=images(3), normalisation=NORMALISATION, class_names="ab")


def test_logits_are_compared_entry_by_entry() -> None:
    one = np.array([[1.0, 2.0], [3.0, 0.0]])
    found = compare_logits(one, np.array([[1.0, 2.5], [0.0, 0.5]]))
    assert (found.images, found.largest_difference, found.same_class) == (2, 3.0, 0.5)
    with pytest.raises(DataError, match="compared"):
        compare_logits(one, one[:1])
