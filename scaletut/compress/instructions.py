"""What this processor offers for int8: whether one instruction adds up products of bytes."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import cache
from pathlib import Path

# In the order of preference, as the kernel of the system names them: (flag, what it is called).
X86 = (
    ("amx_int8", "AMX int8"),
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512bw", "AVX-512"),
    ("avx2", "AVX2"),
)
ARM = (("i8mm", "NEON i8mm"), ("asimddp", "NEON dot product"), ("asimd", "NEON"))
DOT_PRODUCTS = ("AMX int8", "AVX-512 VNNI", "AVX-VNNI", "NEON i8mm", "NEON dot product")


@cache
def instruction_set() -> str:
    """The best int8 instructions found: `AVX-512 VNNI`, `AVX2`, `NEON dot product` ...; the architecture if unknown."""
    flags = _flags()
    for flag, name in (*X86, *ARM):
        if flag in flags:
            return name
    return platform.machine() or "unknown"


def has_dot_product(name: str = "") -> bool:
    """Whether four products of bytes are added to a 32-bit sum in one instruction (VNNI and its like)."""
    return (name or instruction_set()) in DOT_PRODUCTS


def int8_warning(name: str = "") -> str:
    """What to expect of int8 on this processor (or on the one with instruction set `name`), empty when all is well."""
    name = name or instruction_set()
    if has_dot_product(name):
        return ""
    return (
        f"{name} has no instruction for int8 dot products (VNNI or its like): int8 pays up to twice at most, often "
        "less, and sums of two products can overflow 16 bits unless weights keep to 7 bits; measure before you deploy"
    )


def _flags() -> set[str]:
    """What the operating system says about the processor, in Linux's words."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        return set(found[1].split()) if found else set()
    if platform.system() == "Darwin":
        return {flag for flag, key in (("i8mm", "FEAT_I8MM"), ("asimddp", "FEAT_DotProd")) if _sysctl(key)}
    return set()


def _sysctl(key: str) -> bool:
    command = ["sysctl", "-n", f"hw.optional.arm.{key}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "1"
    except OSError:
        return False
