"""Published peaks: sourced, dense and sparse apart; an MFU against the wrong one is refused, with the right one."""

from __future__ import annotations

import re

import pytest

from scaletut.errors import ParameterError
from scaletut.resources.peaks import mfu, published_peak, published_peaks

# Written down apart from the table, from the vendors' datasheets: dense bf16 or fp16 TFLOP/s, GB/s.
KNOWN = {
    "Tesla V100-SXM2-16GB": ("fp16", 125, 900),
    "Tesla V100-PCIE-16GB": ("fp16", 112, 900),
    "Tesla T4": ("fp16", 65, 320),
    "NVIDIA A100-SXM4-40GB": ("bf16", 312, 1555),
    "NVIDIA A100-SXM4-80GB": ("bf16", 312, 2039),
    "NVIDIA A100 80GB PCIe": ("bf16", 312, 1935),
    "NVIDIA A10": ("bf16", 125, 600),
    "NVIDIA L4": ("bf16", 121, 300),
    "NVIDIA GeForce RTX 3090": ("bf16", 71, 936),
    "NVIDIA GeForce RTX 4090": ("bf16", 165.2, 1008),
    "NVIDIA H100 80GB HBM3": ("bf16", 989.4, 3350),
    "NVIDIA H100 PCIe": ("bf16", 756, 2000),
    "NVIDIA H100 NVL": ("bf16", 835, 3900),
    "NVIDIA H200": ("bf16", 989.4, 4800),
    "NVIDIA B200": ("bf16", 2250, 8000),
    "AMD Instinct MI250X": ("bf16", 191.5, 1638),
    "AMD Instinct MI300X": ("bf16", 1307.4, 5300),
    "TPU v3": ("bf16", 123, 900),
    "TPU v4": ("bf16", 275, 1200),
    "TPU v5e": ("bf16", 197, 819),
    "TPU v5p": ("bf16", 459, 2765),
}


def refusal(*arguments: object) -> str:
    with pytest.raises(ParameterError) as refused:
        mfu(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_famous_mistake() -> None:
    """An MFU of 0.8 on an A100 came from 78 TFLOP/s: the fp16 rate beside the tensor cores. The truth is 0.2."""
    achieved = 0.8 * 78e12
    assert mfu(achieved, "A100", "bf16") == pytest.approx(0.2)
    said = refusal(achieved, "A100", "bf16", 78e12)
    assert "78 TFLOP/s is the fp16 rate of the units beside the matrix units" in said
    assert "312 TFLOP/s" in said
    assert "0.20 instead of 0.80" in said
    assert "NVIDIA A100" in said  # the source


@pytest.mark.parametrize(
    ("device", "dtype", "stated", "why"),
    [
        ("A100", "bf16", 624, "with 2:4 sparsity"),
        ("H100", "bf16", 1979, "with 2:4 sparsity"),
        ("MI300X", "fp16", 2614.9, "with 2:4 sparsity"),
        ("A100", "bf16", 156, "the dense peak of tf32"),
        ("A100", "bf16", 19.5, "the dense peak of fp32"),
        ("V100 SXM2", "fp16", 62.5, "as if a multiply-accumulate were one operation"),
        ("A100", "bf16", 400, "not a peak that"),
    ],
)
def test_a_peak_that_is_not_the_dense_one_is_named(device: str, dtype: str, stated: float, why: str) -> None:
    said = refusal(30e12, device, dtype, stated * 1e12)
    assert why in said
    right = published_peak(device).dense[dtype]
    assert f"{30e12 / right:.2f} instead of {30e12 / stated / 1e12:.2f}" in said


def test_the_right_peak_may_be_stated_as_it_is_rounded() -> None:
    assert mfu(400e12, "H100", "bf16", 989e12) == mfu(400e12, "H100", "bf16") == pytest.approx(400 / 989.4)


def test_a_rate_above_the_peak_is_refused() -> None:
    assert mfu(312e12, "A100", "bf16") == 1
    assert "several devices" in refusal(8 * 100e12, "A100", "bf16")
    assert "tf32" in refusal(60e12, "A100", "fp32")
    assert "above the dense" in refusal(60e12, "my chip", "bf16", 50e12)


@pytest.mark.parametrize("rate", [0, -1e12, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    assert "above 0" in refusal(rate, "A100", "bf16")


def test_an_unknown_device_needs_its_peak() -> None:
    assert "datasheet" in refusal(1e12, "my chip", "bf16")
    assert mfu(1e12, "my chip", "bf16", 4e12) == 0.25


def test_a_format_without_units_is_refused() -> None:
    assert "emulates" in refusal(1e12, "Tesla T4", "bf16")


@pytest.mark.parametrize("name", KNOWN)
def test_names_as_drivers_tell_them_and_figures(name: str) -> None:
    dtype, dense, bandwidth = KNOWN[name]
    found = published_peak(name)
    assert found.dense[dtype] == pytest.approx(dense * 1e12)
    assert found.bandwidth == pytest.approx(bandwidth * 1e9)


def test_every_device_of_the_table_is_known_here() -> None:
    assert {published_peak(name).device for name in KNOWN} == {peak.device for peak in published_peaks()}
    assert len(published_peaks()) == len(KNOWN)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A10G", "Tesla V100S-PCIE-32GB", "V100", "AMD EPYC", "",
    ],
)  # fmt: skip
def test_a_relative_of_a_device_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(ParameterError, match="no published peak"):
        published_peak(name)


@pytest.mark.parametrize("peak", published_peaks(), ids=lambda peak: peak.device)
def test_each_record_is_sourced_and_in_order(peak) -> None:
    assert re.search(rf"(NVIDIA|AMD|Google).*\b{peak.year}\b", peak.source)
    assert set(peak.sparse) <= set(peak.dense)
    for dtype, rate in peak.sparse.items():
        assert rate == pytest.approx(2 * peak.dense[dtype], rel=0.02), dtype
    for dtype, rate in peak.vector.items():
        assert rate < peak.dense[max(peak.dense, key=peak.dense.get)], dtype
    assert 1e11 < peak.bandwidth < 1e13
