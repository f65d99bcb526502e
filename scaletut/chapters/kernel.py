"""The kernel that a chapter runs in."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from jupyter_client import AsyncKernelManager


class QuietKernel(AsyncKernelManager):
    """A kernel that says nothing on our terminal.

    What a cell writes to standard error is in the notebook;
    what is left are the kernel's own notes, and its traceback when it is interrupted.
    The bars of libraries that look for widgets do without them, and do not warn that there are none.
    """

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        options.setdefault("stderr", subprocess.DEVNULL)
        options["env"] = {**(options.get("env") or os.environ), "PYTHONWARNINGS": "ignore:IProgress not found"}
        await super()._async_launch_kernel(kernel_cmd, **options)

    _launch_kernel = _async_launch_kernel
