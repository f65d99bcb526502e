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
from scaletut.models.surgery import changed_layers, rebuild, shapes, steps_of

KEY = "scaletut"  # entry of the safetensors metadata that holds the manifest as JSON
FORMAT = 1


def save_weights(model: nn.Module, path: Path | str, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write a network's weights and buffers, and what is needed to build it again, to one safetensors file.

    Args:
        model: from `build`, from `adapt` in a mode that adds no layers (after `lora`, `merge` it first), or from the
            functions of `scaletut.compress`, whose changes of the layers are kept in the manifest (`layers`), and
            what was done in its `steps`.
        path: usually ends in `.safetensors`; written whole or not at all.
        manifest: further facts to keep, as plain JSON values (recipe, seed, accuracy ...).

    Returns:
        The path.

    Raises:
        ParameterError: the network does not carry a `spec`, it has layers that cannot be described, or the
            manifest uses a name that is reserved or holds a value that JSON cannot.
    """
    layers = changed_layers(model)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    reserved = {"format", "net", "sha256", "layers", "steps"}
    if clash := reserved & set(manifest or {}):
        raise ParameterError(f"the manifest may not use the reserved names {sorted(clash)}: rename those entries")
    full = {
        **(manifest or {}),
        "format": FORMAT,
        "net": model.spec.to_dict(),
        "sha256": weights_digest(tensors, layers),
    }
    changes = {"layers": layers, "steps": list(steps_of(model))}
    full |= {name: value for name, value in changes.items() if value}  # absent from a network that nothing changed
    try:
        text = canonical_json(full)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the manifest cannot be written as JSON ({error}): give plain finite values") from error
    return atomic_write(path, safetensors.torch.save(tensors, {KEY: text}))


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The manifest of a weights file: `format`, `net` (name, num_classes, width), `sha256`, of a compressed network
    `layers` and `steps`, and the caller's entries.

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

    Returns:
        The network with `.spec`, and with `.steps`, what compression did to it (empty if nothing).

    Raises:
        DataError: the file is absent, cut short, altered, or was not written by `save_weights`.
    """
    manifest = read_manifest(path)
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    layers = manifest.get("layers", {})
    if weights_digest(tensors, layers) != manifest["sha256"]:
        raise DataError(f"{Path(path).name} was altered: its weights do not match its manifest; save it again")
    spec = NetSpec(**manifest["net"])
    try:
        net = rebuild(spec, layers) if layers else skeleton(spec)
    except ParameterError as error:
        raise DataError(f"{Path(path).name} cannot be rebuilt: {error}") from error
    if shapes(tensors) != shapes(net.state_dict()):
        raise DataError(f"{Path(path).name} does not fit '{spec.name}' as built here: save it again")
    net.load_state_dict(tensors)
    net.steps = tuple(manifest.get("steps", ()))
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


def weights_digest(tensors: Mapping[str, Tensor], layers: Mapping[str, Any] | None = None) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names; and over the changed layers, if any.

    Args:
        tensors: a `state_dict`, wherever its tensors are.
        layers: as `changed_layers` describes them.
    """
    digest = hashlib.sha256(canonical_json(layers).encode() if layers else b"")
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
