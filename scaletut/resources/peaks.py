"""What vendors say their devices can do, and a model FLOPs utilisation (MFU) that refuses the wrong peak.

MFU is the rate of a model's own FLOPs over the peak of the device (Chowdhery et al. 2022, arXiv:2204.02311, appendix
B). Two conventions decide it, and each has been missed by a factor of two or four: a multiply-accumulate is 2 FLOPs,
and the peak is the dense one of the number format that is used. Datasheets print the peak with 2:4 sparsity too,
twice as high, sometimes alone, and white papers the peak of the units beside the matrix units, four times as low.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from scaletut.errors import ParameterError

TERA, GIGA = 1e12, 1e9
ROUNDING = 0.01  # datasheets say 989 and white papers 989.4
# Vendors, modules and memories: words of a driver's name that do not change the rate of a device.
_SILENT = re.compile(r"nvidia|tesla|geforce|amd|instinct|google|cloud|gpu|sxm\d?|pcie|oam|hbm\w*|\d+gb")


@dataclass(frozen=True)
class Peak:
    """A device as its vendor describes it.

    Attributes:
        device: name, as short as it is clear.
        dense: FLOP/s by number format (operations a second for int8), 2 a multiply-accumulate: what MFU is told by.
        sparse: the same where two of every four weights are zero and skipped.
        vector: the same of the units beside the matrix units.
        bandwidth: bytes a second to and from the device's memory.
        source: document, vendor, year.
        year: of the document.
    """

    device: str
    dense: Mapping[str, float]
    sparse: Mapping[str, float]
    vector: Mapping[str, float]
    bandwidth: float
    source: str
    year: int


def published_peaks() -> tuple[Peak, ...]:
    """All devices of the table."""
    return tuple({peak.device: peak for peak in _table().values()}.values())


def published_peak(device_name: str) -> Peak:
    """The device that `device_name` means: a name as here or as `torch.cuda.get_device_name` tells it.

    A word that could change the rate (`Ti`, `D`, `Laptop`, `MIG`) and is not in the table makes the name unknown.

    Raises:
        ParameterError: the table does not have it.
    """
    words = _words(device_name)
    for key, peak in sorted(_table().items(), key=lambda item: -len(item[0])):  # the most exact name first
        if key <= words and all(_SILENT.fullmatch(word) for word in words - key):
            return peak
    known = ", ".join(peak.device for peak in published_peaks())
    raise ParameterError(
        f"no published peak of {device_name!r} is known here ({known}); take the dense one of your number format from "
        "the vendor's datasheet and give it as peak, in FLOP/s"
    )


def mfu(flops_per_second: float, device_name: str, dtype: str, peak: float | None = None) -> float:
    """Model FLOPs utilisation, 0 to 1: the achieved rate over the dense peak of one device.

    Args:
        flops_per_second: of the model on one device, 2 FLOPs a multiply-accumulate, recomputation not counted.
        device_name: see `published_peak`.
        dtype: number format of the matrix products: `bf16`, `fp16`, `tf32`, `fp32`, `fp8` or `int8`.
        peak: FLOP/s that the rate is to be told against; it must be the published one where that is known.

    Raises:
        ParameterError: an unknown device without a peak, a format that the device has no units for, a peak that is
            not the dense one of the format, or a rate above the peak.
    """
    if not flops_per_second > 0:
        raise ParameterError(f"the rate is {flops_per_second:g} FLOP/s: give a rate above 0")
    dense = _dense(device_name, dtype, flops_per_second, peak)
    if flops_per_second > dense:
        raise ParameterError(
            f"{_tera(flops_per_second)} is above the dense {dtype} peak of {device_name}, {_tera(dense)}; the clock "
            "was read before the device was done, or FLOPs of several devices, of recomputation or twice a "
            "multiply-accumulate's two were counted" + (_TF32 if dtype == "fp32" else "")
        )
    return flops_per_second / dense


_TF32 = ", or PyTorch ran the convolutions in tf32, as it does where the device can"


def _dense(device_name: str, dtype: str, rate: float, stated: float | None) -> float:
    try:
        known = published_peak(device_name)
    except ParameterError:
        if stated is None:
            raise
        return stated
    if dtype not in known.dense:
        raise ParameterError(
            f"{known.device} has no {dtype} peak in its datasheet ({', '.join(known.dense)} it has); where PyTorch "
            f"runs {dtype} on it all the same, it emulates it"
        )
    right = known.dense[dtype]
    if stated is None or _same(stated, right):
        return right
    raise ParameterError(
        f"{_tera(stated)} is {_mistaken(known, dtype, stated)}; the dense {dtype} peak of {known.device} is "
        f"{_tera(right)} ({known.source}), and against it the MFU is {rate / right:.2f} instead of {rate / stated:.2f}"
    )


def _mistaken(known: Peak, dtype: str, stated: float) -> str:
    """What the wrong peak is the peak of."""
    if _same(stated, known.sparse.get(dtype, 0)):
        return "the peak with 2:4 sparsity, which counts the products with zeros that it skips"
    units = [name for name, rate in known.vector.items() if _same(stated, rate)]
    if units:
        return f"the {units[0]} rate of the units beside the matrix units"
    for rates, kind in ((known.dense, "dense"), (known.sparse, "sparse")):
        others = [name for name, rate in rates.items() if _same(stated, rate)]
        if others:
            return f"the {kind} peak of {others[0]}"
    if _same(stated, known.dense[dtype] / 2):
        return "half the peak, as if a multiply-accumulate were one operation"
    return f"not a peak that {known.device} has"


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= ROUNDING * other


def _tera(rate: float) -> str:
    return f"{rate / TERA:.4g} TFLOP/s"


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


@cache
def _table() -> dict[frozenset[str], Peak]:
    """The devices by the words that mean them."""
    text = files("scaletut.resources").joinpath("peaks.json").read_text(encoding="utf-8")
    table = {}
    for row in json.loads(text)["peaks"]:
        rates = [{name: TERA * rate for name, rate in row.get(kind, {}).items()} for kind in _KINDS]
        peak = Peak(row["device"], *rates, GIGA * row["bandwidth"], row["source"], row["year"])
        table |= {_words(words): peak for words in row["match"]}
    return table


_KINDS = ("dense", "sparse", "vector")
