"""Checkpoints that are whole or absent, and that refuse to continue another run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from scaletut.errors import ScaletutError
from scaletut.files import atomic_write


class CheckpointError(ScaletutError):
    """A checkpoint is damaged or belongs to another run."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, buffer.getvalue())


def load_checkpoint(path: Path, key: str, device: torch.device) -> dict[str, Any] | None:
    """The state saved at `path`, or None when there is no file.

    Args:
        path: the checkpoint file.
        key: digest of recipe, seed, data and network; the file must hold the same one.
        device: where the tensors go.

    Raises:
        CheckpointError: the file is damaged, or was written by a run with another key.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["key"]
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path.name} cannot be read ({type(error).__name__}), usually because it was altered or is "
            "not a checkpoint: delete it to start the run afresh"
        ) from error
    if found != key:
        raise CheckpointError(
            f"checkpoint {path.name} belongs to a run with another recipe, seed, data set or network: "
            "give another file, or delete it to start afresh"
        )
    return state
