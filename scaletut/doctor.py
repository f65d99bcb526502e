"""What is installed, what is missing and how to get it, what device and data there are."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from scaletut import __version__
from scaletut.errors import DataError, ScaletutError

try:
    from packaging.requirements import Requirement
except ImportError as error:  # nearly every environment has it, the light core does not ask for it
    raise ScaletutError("doctor needs `packaging`, which is missing; pip install packaging") from error

CORE = "core"
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Package:
    """A package that an extra asks for: `wanted` is a version range, `installed` is "" when it is absent."""

    name: str
    wanted: str
    installed: str
    fits: bool


@dataclass(frozen=True)
class Diagnosis:
    """All that `scaletut doctor` tells; memory in GB (10⁹ bytes)."""

    scaletut: str
    python: str
    python_fits: bool
    system: str
    extras: dict[str, tuple[Package, ...]]
    processor: str
    cores: int
    memory_gb: float
    processor_flags: tuple[str, ...]
    devices: tuple[str, ...]
    data: dict[str, str]
    environment: dict[str, str]


def examine() -> Diagnosis:
    """Look at this machine; imports torch if it is there."""
    from scaletut.records import device_facts

    facts = device_facts()
    return Diagnosis(
        scaletut=__version__,
        python=platform.python_version(),
        python_fits=sys.version_info >= (3, 10),
        system=f"{platform.system()} {platform.machine()}",
        extras={extra: tuple(_package(need) for need in needs) for extra, needs in _requirements().items()},
        processor=str(facts["name"]),
        cores=int(facts["cores"]),
        memory_gb=float(facts.get("memory_gb", 0)),
        processor_flags=_flags(),
        devices=_devices(),
        data=_data(),
        environment={name: value for name, value in sorted(os.environ.items()) if _is_ours(name)},
    )


def lines(found: Diagnosis) -> list[str]:
    """The diagnosis as lines of text; what is missing comes with the command that installs it."""
    python = f"Python {found.python}" + ("" if found.python_fits else " (too old: install 3.10 or newer)")
    text = [f"scaletut {found.scaletut}, {python}, {found.system}"]
    for extra, packages in found.extras.items():
        missing = [package for package in packages if not package.installed]
        wrong = [package for package in packages if package.installed and not package.fits]
        text.append(f"{extra:<9} {len(packages) - len(missing) - len(wrong)} of {len(packages)} packages fit")
        text += [f"          missing: {p.name} ({p.wanted or 'any version'})" for p in missing]
        text += [f"          {p.name} {p.installed} is installed, wanted is {p.wanted}" for p in wrong]
        if missing or wrong:
            text.append(f"          to get them: {_install_command(extra)}")
    flags = f" ({', '.join(found.processor_flags)})" if found.processor_flags else ""
    text.append(f"processor {found.processor}, {found.cores} cores, {found.memory_gb} GB{flags}")
    text += [f"device    {device}" for device in found.devices]
    text += [f"data      {name}: {state}" for name, state in found.data.items()]
    text += [f"setting   {name}={value}" for name, value in found.environment.items()]
    return text


def to_json(found: Diagnosis) -> str:
    """The diagnosis for programs."""
    return json.dumps(asdict(found), indent=1)


# --- packages ----------------------------------------------------------------------


def _requirements() -> dict[str, tuple[Requirement, ...]]:
    """extra -> what it asks for, without what it takes from another extra of ours."""
    told = [Requirement(line) for line in importlib.metadata.requires("scaletut") or ()]
    extras = importlib.metadata.metadata("scaletut").get_all("Provides-Extra") or []
    needs: dict[str, tuple[Requirement, ...]] = {}
    for extra in (CORE, *extras):
        needs[extra] = tuple(need for need in told if need.name != "scaletut" and _belongs(need, extra))
    return needs


def _belongs(need: Requirement, extra: str) -> bool:
    if need.marker is None:
        return extra == CORE
    if extra == CORE:
        return "extra" not in str(need.marker) and need.marker.evaluate()
    return "extra" in str(need.marker) and need.marker.evaluate({"extra": extra})


def _package(need: Requirement) -> Package:
    try:
        installed = importlib.metadata.version(need.name)
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    fits = bool(installed) and need.specifier.contains(installed, prereleases=True)
    return Package(need.name, str(need.specifier), installed, fits)


def _install_command(extra: str) -> str:
    return "pip install scaletut" if extra == CORE else f"pip install 'scaletut[{extra}]'"


# --- the machine -------------------------------------------------------------------


def _flags() -> tuple[str, ...]:
    """The processor's abilities that decide which arithmetic pays; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    present = set(line.group(1).split()) if line else set()
    return tuple(flag for flag in _FLAGS if flag in present)


def _devices() -> tuple[str, ...]:
    if importlib.util.find_spec("torch") is None:
        return (f"unknown: torch is not installed; {_install_command('train')}",)
    import torch

    from scaletut.train import execution, pick_device

    best = execution(pick_device())
    found = [f"{best.name} (what a run uses), {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 1e9
        found.append(f"cuda:{index} {torch.cuda.get_device_name(index)}, {memory:.0f} GB")
    return tuple(found)


def _data() -> dict[str, str]:
    """image set -> where it would come from."""
    return {"zipf10": "generated here, no file needed", "cifar10": _cifar10()}


def _cifar10() -> str:
    from scaletut.data import cifar

    try:
        folders = [folder for folder in (cifar.data_folder(), cifar.cache_folder()) if folder]
    except DataError as error:
        return str(error)
    for path in (folder / name for folder in folders for name in (cifar.NPZ, cifar.FOLDER)):
        if path.exists():
            return str(path)
    return f"not here; the first use downloads it (170 MB), or {cifar.WAYS_OUT}"


def _is_ours(name: str) -> bool:
    return name.startswith(("SCALETUT_", "OMP_")) or name == "CUDA_VISIBLE_DEVICES"
