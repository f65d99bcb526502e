"""Weights in files: safetensors with a manifest that rebuilds the network. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from scaletut.errors import DataError, ParameterError
from scaletut.files import atomic_write, canonical_json
from scaletut.models.build import NetSpec, skeleton

KEY = "scaletut"  # entry of the safetensors metadata that holds the manifest as JSON
FORMAT = 1


def save_weights(model: nn.Module, path: Path | str, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write a network's weights and buffers, and what is needed to build it again, to one safetensors file.

    Args:
        model: from `build`, or from `adapt` in a mode that adds no layers (after `lora`, `merge` it first).
        path: usually ends in `.safetensors`; written whole or not at all.
        manifest: further facts to keep, as plain JSON values (recipe, seed, accuracy ...).

    Returns:
        The path.

    Raises:
        ParameterError: the network does not carry a `spec`, its layers are not those of its spec, or the
            manifest uses a name that is reserved or holds a value that JSON cannot.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, NetSpec):
        raise ParameterError(
            "only networks from build() can be saved: this one has no `spec` that tells how to rebuild it"
        )
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if _shapes(tensors) != _shapes(skeleton(spec).state_dict()):
        raise ParameterError(
            f"the layers are not those of '{spec.name}', so it could not be loaded again: "
            "after LoRA call merge(model) before saving"
        )
    reserved = {"format", "net", "sha256"}
    if clash := reserved & set(manifest or {}):
        raise ParameterError(f"the manifest may not use the reserved names {sorted(clash)}: rename those entries")
    full = {**(manifest or {}), "format": FORMAT, "net": spec.to_dict(), "sha256": _digest(tensors)}
    try:
        text = canonical_json(full)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the manifest cannot be written as JSON ({error}): give plain finite values") from error
    return atomic_write(path, safetensors.torch.save(tensors, {KEY: text}))


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The manifest of a weights file: `format`, `net` (name, num_classes, width), `sha256`, and the caller's
    entries.

    Raises:
        DataError: the file is absent, damaged, or was not written by `save_weights`.
    """
    with _open(path) as file:
        text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise DataError(
            f"{Path(path).name} holds weights but no manifest: only files from save_weights() can be loaded"
        )
    manifest = json.loads(text)
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{Path(path).name} has manifest format {manifest.get('format')!r}, this version reads {FORMAT}: "
            "it was written by another version; update scaletut or save it again"
        )
    return manifest


def load_weights(path: Path | str) -> nn.Module:
    """Rebuild the network of a weights file, with its weights, on the CPU and in evaluation mode.

    Raises:
        DataError: the file is absent, cut short, altered, or was not written by `save_weights`.
    """
    manifest = read_manifest(path)
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    if _digest(tensors) != manifest["sha256"]:
        raise DataError(f"{Path(path).name} was altered: its weights do not match its manifest; save it again")
    net = skeleton(NetSpec(**manifest["net"]))
    if _shapes(tensors) != _shapes(net.state_dict()):
        raise DataError(f"{Path(path).name} does not fit '{manifest['net']['name']}' as built here: save it again")
    net.load_state_dict(tensors)
    return net.eval()


def _open(path: Path | str) -> Any:
    if not Path(path).is_file():
        raise DataError(f"there is no weights file {Path(path).name}: check the path, or write one with save_weights()")
    try:
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(
            f"{Path(path).name} is not a whole safetensors file ({error}): it was cut short; save it again"
        ) from error


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
