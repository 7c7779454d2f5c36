"""Where a model runs."""

from __future__ import annotations

import torch

from datamodules.errors import DataError


def usable_device(name: str | None) -> torch.device:
    """Find a device, and try it.

    Args:
        name: What torch calls it, such as ``cuda:1``; None for the fastest that is here.

    Returns:
        The device.

    Raises:
        DataError: It cannot be used here.
    """
    try:
        place = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"--device {name}: cannot be used here ({reason}); try cpu") from error
    return place
