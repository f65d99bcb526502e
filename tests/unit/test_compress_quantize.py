"""Eight bits: the mechanism, programs in int8, and networks that train with their rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compress_cases import data, exported, images, quantised, settled, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scaletut.compress import (
    affine,
    dequantise,
    finish_quantisation_aware,
    fold_norms,
    hold_zeros,
    instruction_set,
    instructions,
    int8_warning,
    nodes,
    prune_weights,
    quantisation_aware,
    quantise,
    quantise_dynamic,
    quantise_static,
    simulate_weights,
    weight_scales,
)
from scaletut.compress.aware import ActivationGrid
from scaletut.compress.graph import eager_logits
from scaletut.compress.program import read_graph
from scaletut.errors import DataError, ParameterError
from scaletut.train import Recipe, fit

bounds = st.integers(-(10**6), 10**6).map(lambda number: number / 100)


# --- the mechanism


@settings(max_examples=50, deadline=None)
@given(bounds, bounds, st.integers(2, 8))
def test_no_number_in_the_range_is_off_by_more_than_half_a_step(one: float, two: float, bits: int) -> None:
    low, high = sorted((one, two))
    grid = affine(low, high, bits)
    values = np.linspace(max(low, grid.range[0]), min(high, grid.range[1]), 1001)
    error = np.abs(dequantise(quantise(values, grid), grid) - values).max()
    assert error <= grid.error_bound * (1 + 1e-5) + 1e-6 * max(abs(low), abs(high))
    assert dequantise(quantise(np.zeros(1), grid), grid) == 0
    assert grid.range[0] <= max(low, 0) + grid.scale
    assert grid.range[1] >= min(high, 0) - grid.scale


def test_the_mechanism_is_what_onnx_s_operators_compute() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 5000).astype(np.float32)
    grid = affine(-1.5, 2.5)
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [5000])],
        [
            helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, [5000]),
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5000]),
        ],
        [
            onnx.numpy_helper.from_array(np.float32(grid.scale), "scale"),
            onnx.numpy_helper.from_array(np.uint8(grid.zero_point), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    levels, numbers = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})
    assert np.mean(levels != quantise(values, grid)) < 0.001  # ties, in float32 there and in float64 here
    np.testing.assert_allclose(numbers, dequantise(levels, grid), atol=1e-6)


def test_grids_that_cannot_be_are_refused() -> None:
    for low, high, bits in ((1.0, 0.0, 8), (0.0, float("inf"), 8), (0.0, 1.0, 0)):
        with pytest.raises(ParameterError, match="grid"):
            affine(low, high, bits)


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 8, 1, 1), (6, 7)])
def test_no_pair_of_products_leaves_16_bits(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).standard_t(3, shape)  # heavy tails, as trained weights have
    scales = weight_scales(weight)
    levels = np.rint(weight / scales.reshape(-1, *[1] * (len(shape) - 1))).astype(int)
    walked = np.moveaxis(levels.reshape(*shape[:2], -1), 1, 2)
    flat = walked.reshape(len(weight), -1)
    for order in (np.pad(walked, ((0, 0), (0, 0), (0, shape[1] % 2))).reshape(len(weight), -1), flat):
        order = np.pad(order, ((0, 0), (0, order.shape[1] % 2)))
        for side in (np.maximum(order, 0), np.minimum(order, 0)):
            sums = 255 * (side[:, 0::2] + side[:, 1::2])
            assert -(2**15) <= sums.min() <= sums.max() < 2**15
    assert (scales <= weight_scales(weight, headroom="bit") * 1.01).all()
    assert (scales >= weight_scales(weight, headroom="none")).all()
    assert (np.abs(levels).reshape(len(weight), -1).max(axis=1) > 64).any()  # more than 7 bits are used


def test_depthwise_kernels_keep_all_bits_and_one_grid_is_the_widest() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3))
    reach = np.abs(weight).reshape(4, -1).max(axis=1)
    np.testing.assert_allclose(weight_scales(weight, groups=4), reach / 127)
    np.testing.assert_allclose(weight_scales(weight, groups=4, per_channel=False), np.full(4, reach.max() / 127))
    with pytest.raises(ParameterError, match="headroom"):
        weight_scales(weight, headroom="much")


# --- programs


def scored(logits: np.ndarray) -> float:
    return float((logits.argmax(1) == data().test.labels).mean())


def test_static_int8_scores_as_the_network_does_and_is_smaller() -> None:
    program, small = exported(), quantised()
    before, after = scored(program.logits(data().test.images)), scored(small.logits(data().test.images))
    assert before > 0.25  # it has learned something: a tenth is chance
    assert abs(before - after) < 0.03
    assert small.bytes < program.bytes / 2
    told = small.manifest
    assert told["precision"] == "int8 static"
    assert told["steps"][-1]["step"] == "quantise_static"
    assert told["source"]["sha256"] == program.manifest["sha256"]
    assert told["agreement"]["against"] == "float program"
    assert told["agreement"]["same_class"] > 0.95


def test_integers_give_what_their_simulation_in_float_gives() -> None:
    """With the graph left alone every product is in float and cannot overflow: the integer kernels must agree."""
    some = data().test.images
    exact, fast = quantised().predictor(level="off")(some), quantised().logits(some)
    spread = exact.std()
    assert np.sqrt(np.mean((exact - fast) ** 2)) < 0.05 * spread


def test_weights_and_grids_in_the_file_are_those_of_the_rule() -> None:
    model = onnx.ModelProto.FromString(read_graph(quantised()))
    plain = onnx.ModelProto.FromString(read_graph(exported()))
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    checked = 0
    for one in plain.graph.initializer:
        if len(one.dims) == 4 or one.name == "fc.weight":
            weight = onnx.numpy_helper.to_array(one)
            scales = stored[f"{one.name}_scale"]
            np.testing.assert_allclose(scales, weight_scales(weight), rtol=1e-4)
            levels = stored[f"{one.name}_quantized"]
            assert levels.dtype == np.int8
            half = scales.reshape(-1, *[1] * (weight.ndim - 1)) / 2
            assert (np.abs(levels.astype(int) * 2 * half - weight) <= half * 1.001).all()
            checked += 1
    assert checked == 10


def test_onnx_runtime_leaves_no_convolution_in_float(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(read_graph(quantised()), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert (kinds.count("QLinearConv"), kinds.count("QLinearAdd"), kinds.count("QGemm")) == (9, 3, 1)
    assert not {"Conv", "Add", "Relu", "Gemm"} & set(kinds)


def test_excluded_nodes_stay_in_float(tmp_path: Path) -> None:
    first = next(name for name, kind in nodes(exported()).items() if kind == "Conv")
    some = data().train.images[:50]
    program = quantise_static(exported(), tmp_path / "a.onnx", some, exclude=[first], method="percentile")
    model = onnx.ModelProto.FromString(read_graph(program))
    floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) == 4]
    assert len(floats) == 1
    assert program.manifest["steps"][-1]["excluded"] == [first]


def test_dynamic_int8_agrees_too(tmp_path: Path) -> None:
    program = quantise_dynamic(exported(), tmp_path / "a.onnx", check=data().test.images)
    assert program.manifest["precision"] == "int8 dynamic"
    assert "ConvInteger" in nodes(program).values()
    assert program.bytes < exported().bytes / 2


def test_a_program_that_changes_too_many_classes_is_refused(tmp_path: Path) -> None:
    """Ranges found on black images alone clip everything else."""
    with pytest.raises(DataError, match="change class"):
        quantise_static(exported(), tmp_path / "a.onnx", np.zeros((8, 32, 32, 3), np.uint8), check=data().test.images)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantised_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, some = tmp_path / "a.onnx", data().train.images[:8]
    with pytest.raises(ParameterError, match="already"):
        quantise_static(quantised(), path, some)
    with pytest.raises(ParameterError, match="method"):
        quantise_static(exported(), path, some, method="best")
    with pytest.raises(ParameterError, match="no images"):
        quantise_static(exported(), path, some[:0])
    with pytest.raises(ParameterError, match="no node"):
        quantise_static(exported(), path, some, exclude=["stem"])
    with pytest.raises(DataError, match="uint8"):
        quantise_static(exported(), path, images(4, side=16))
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_the_warning_follows_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8_warning("AVX-512 VNNI") == int8_warning("NEON dot product") == ""
    assert "7 bits" in int8_warning("AVX2")
    assert quantised().manifest["instruction_set"] == instruction_set()
    for flags, name in (({"avx2", "avx512bw", "avx512_vnni"}, "AVX-512 VNNI"), ({"avx2"}, "AVX2"), ({"asimd"}, "NEON")):
        monkeypatch.setattr(instructions, "_flags", lambda flags=flags: flags)
        assert instruction_set.__wrapped__() == name


# --- networks


def test_rounding_in_training_is_the_rounding_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ranges of the calibration images the prepared network computes the int8 program's logits."""
    aware = quantisation_aware(trained().model)
    grids = [module.train() for module in aware.modules() if isinstance(module, ActivationGrid)]
    assert len(grids) == 10 + 5 + 2  # inputs of ten layers, what is added up in shortcuts, the mean's input, logits
    with monkeypatch.context() as patch:  # ranges are found in float, as the calibration finds them
        patch.setattr(torch, "fake_quantize_per_tensor_affine", lambda values, *_: values)
        patch.setattr(torch, "fake_quantize_per_channel_affine", lambda values, *_: values)
        eager_logits(aware, data().train.images[:200], trained().normalisation, batch_size=200)
    test = data().test.images
    found = eager_logits(aware.eval(), test, trained().normalisation)
    program, plain = quantised().predictor(level="off")(test), exported().logits(test)
    same = [float((np.abs(one - program) < 1e-3).mean()) for one in (found, plain)]
    assert same[0] > 0.8  # the rest is off by a level: a sum that fell on the edge between two
    assert same[1] < 0.2


def test_a_prepared_network_trains_and_becomes_plain_again() -> None:
    before = trained().model
    aware = quantisation_aware(before)
    result = fit(aware, data().train, Recipe(epochs=1, batch_size=100, lr=0.02), 0)
    plain = finish_quantisation_aware(result.model)
    assert sorted(plain.state_dict()) == sorted(before.state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())
    assert plain.spec == before.spec
    assert plain.steps[-1]["step"] == "quantisation_aware"
    assert not torch.equal(plain.stage1[0].conv1.weight, before.stage1[0].conv1.weight)
    with pytest.raises(ParameterError, match="does not round"):
        finish_quantisation_aware(plain)
    with pytest.raises(ParameterError, match="already"):
        quantisation_aware(aware)


def test_zeros_are_held_while_training_with_rounding() -> None:
    pruned = prune_weights(trained().model, 0.6)
    zeros = pruned.stage2[0].conv1.weight == 0
    aware = quantisation_aware(pruned)
    with hold_zeros(aware):
        fit(aware, data().train, Recipe(epochs=1, batch_size=300, lr=0.02), 0)
    plain = finish_quantisation_aware(aware)
    assert torch.equal(plain.stage2[0].conv1.weight == 0, zeros)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_in_few_bits_lie_on_their_groups_grids(bits: int) -> None:
    net = fold_norms(settled("resnet8", width=0.5))
    few = simulate_weights(net, bits=bits, group=32)
    for one, two in zip(net.modules(), few.modules(), strict=True):
        if not isinstance(one, (nn.Conv2d, nn.Linear)):
            continue
        for old, new in zip(one.weight.flatten(1), two.weight.flatten(1), strict=True):
            for a, b in zip(old.split(32), new.split(32), strict=True):
                assert len(b.unique()) <= 2**bits - 1
                assert (a - b).abs().max() <= 0.51 * a.abs().max() / (2 ** (bits - 1) - 1) + 1e-7
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    told = few.steps[-1]
    assert (told["bits"], told["group"]) == (bits, 32)
    assert weights * bits / 8 < told["bytes"] < weights * (bits / 8 + 0.25) + 4 * 400


def test_bits_and_groups_out_of_range_are_refused() -> None:
    for wrong in ({"bits": 1}, {"bits": 9}, {"group": 0}):
        with pytest.raises(ParameterError, match="bits"):
            simulate_weights(trained().model, **wrong)
