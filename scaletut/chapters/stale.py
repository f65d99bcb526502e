"""Is a run still true?

A run's key is a digest of all that can change it: the notebook's source cells, the library's source,
the resolved parameters, the data, the recorded runs it quotes, and the versions of what computes.
File times play no part, so a fresh clone or a touched file makes nothing stale.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaletut.errors import ScaletutError
from scaletut.files import atomic_write, digest_files, digest_json, sha256_file

_PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Key:
    """What a run depended on: part (such as "library") -> hexadecimal sha256."""

    parts: Mapping[str, str]

    def changes(self, other: Key) -> tuple[str, ...]:
        """The names of the parts that differ, in the order of this key."""
        return tuple(name for name, digest in self.parts.items() if other.parts.get(name) != digest)


def run_key(notebook: Path, parameters: Mapping[str, Any]) -> Key:
    """The key of running `notebook` with resolved `parameters` on this machine, now."""
    from scaletut.records import library_digest

    return Key(
        {
            "notebook": source_digest(notebook),
            "library": library_digest(),
            "parameters": digest_json(dict(parameters)),
            "data": data_digest(str(parameters.get("data", ""))),
            "results": results_digest(notebook.parents[1] / "results"),
            "versions": digest_json(_versions()),
        }
    )


def source_digest(notebook: Path) -> str:
    """sha256 over the type, tags and source of each cell: outputs, counts and file times do not count."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ScaletutError(f"{notebook} is not a notebook ({error!r}); restore it with git") from error
    content = [[cell["cell_type"], sorted(cell["metadata"].get("tags", [])), "".join(cell["source"])] for cell in cells]
    return digest_json(content)


def data_digest(source: str) -> str:
    """A digest that changes when the image set that `source` names does.

    `zipf10:options` is generated, so its options are the data (the generator is part of the library).
    Files (`cifar10`, `folder:PATH`) are digested by name and content.
    """
    if source.startswith("folder:"):
        folder = Path(source.partition(":")[2]).expanduser()
        files = [path for path in folder.rglob("*") if path.is_file()]
        return digest_json([source, digest_files(folder, files)])
    if source == "cifar10":
        return digest_json([source, *(digest_files(folder, _cifar_files(folder)) for folder in _data_folders())])
    return digest_json([source])


def results_digest(folder: Path) -> str:
    """A digest of the recorded runs that a chapter may quote; those in `quick` serve the receipt alone."""
    records = [path for path in folder.rglob("*.json") if path.relative_to(folder).parts[0] != "quick"]
    return digest_json(digest_files(folder, records))


def _data_folders() -> tuple[Path, ...]:
    from scaletut.data.cifar import cache_folder, data_folder

    folders = (data_folder(), cache_folder())
    return tuple(folder for folder in folders if folder is not None and folder.is_dir())


def _cifar_files(folder: Path) -> list[Path]:
    from scaletut.data.cifar import FOLDER, NPZ

    found = [folder / NPZ, *(folder / FOLDER).glob("*")]
    return [path for path in found if path.is_file()]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


# --- the receipt of a run, beside its notebook -------------------------------------


def write_key(path: Path, key: Key, products: list[Path], seconds: float) -> None:
    """Write `key` and the digests of the run's `products`; called last, for it vouches for whole files."""
    files = {os.path.relpath(product, path.parent): sha256_file(product) for product in products}
    atomic_write(path, json.dumps({"parts": dict(key.parts), "products": files, "seconds": seconds}, indent=1))


def stale_reason(path: Path, key: Key) -> str:
    """Why the run that left `path` must be made again, in a word or two; "" when it is still true."""
    told = read_key(path)
    if told is None:
        return "not run yet"
    stored, products, _ = told
    if changed := key.changes(stored):
        return f"{' and '.join(changed)} changed"
    for product, digest in products.items():
        if not product.is_file() or sha256_file(product) != digest:
            return f"{product.name} missing or altered"
    return ""


def read_key(path: Path) -> tuple[Key, dict[Path, str], float] | None:
    """(key, product -> sha256, seconds) as `write_key` left them; None when absent or unreadable."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        products = {Path(os.path.normpath(path.parent / name)): digest for name, digest in told["products"].items()}
        return Key(dict(told["parts"])), products, float(told["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


# --- the site ----------------------------------------------------------------------

_SITE_INPUTS = ("_config.yml", "_toc.yml", "requirements.lock", "book", "notebooks", "scaletut", "results")
_NOT_INPUT = ("__pycache__", ".ipynb_checkpoints")


def site_digest(root: Path | str) -> str:
    """A digest over the name and content of every file that the rendered site is made from."""
    root = Path(root)
    paths = [path for name in _SITE_INPUTS for path in [root / name, *(root / name).rglob("*")]]
    files = [path for path in paths if path.is_file() and not set(path.parts) & set(_NOT_INPUT)]
    return digest_json(digest_files(root, files))
