"""Devices to run a model on."""

from __future__ import annotations

import torch

from datamodules.errors import DataError


def usable_device(name: str | None) -> torch.device:
    """Find a device by torch's name (None: the fastest one available) and check that it works.

    Raises:
        DataError: It cannot be used on this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"--device {name}: cannot be used here ({reason}); try cpu") from error
    return device
