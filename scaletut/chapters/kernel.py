"""The kernel that a chapter runs in."""

from __future__ import annotations

import subprocess
from typing import Any

from jupyter_client import AsyncKernelManager


class QuietKernel(AsyncKernelManager):
    """A kernel that says nothing on our terminal.

    What a cell writes to standard error is in the notebook;
    what is left are the kernel's own notes, and its traceback when it is interrupted.
    """

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        options.setdefault("stderr", subprocess.DEVNULL)
        await super()._async_launch_kernel(kernel_cmd, **options)

    _launch_kernel = _async_launch_kernel
