"""Devices to run a model on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datamodules.errors import DataError

# Lightning's names.
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_ALL = "all"


def usable_devices(names: str | None) -> list[torch.device]:
    """Find devices by torch's names, separated by commas, and check that they work.

    Args:
        names: ``all`` for all CUDA devices, None for the fastest device. A device may be given
            several times.

    Raises:
        DataError: One of them cannot be used on this machine.
    """
    if names == _ALL:
        number = torch.cuda.device_count()
        if not number:
            raise DataError(f"--device {_ALL}: this machine has no GPU of CUDA; try cpu")
        return [usable_device(f"cuda:{index}") for index in range(number)]
    return [usable_device(name) for name in (names.split(",") if names else [None])]


def check_precision(precision: str, devices: Sequence[torch.device]) -> None:
    """Raise a ``DataError`` if a device has no fast arithmetic of a precision."""
    if precision == "16-mixed" and any(device.type == "cpu" for device in devices):
        raise DataError("--precision 16-mixed: is for GPUs; give bf16-mixed or 32-true on cpu")


def in_precision(
    forward: Callable[[Tensor], Tensor], device: torch.device, precision: str
) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a network in mixed precision, with results in float32.

    Args:
        forward: Maps waveforms to waveforms.
        device: Device of the network.
        precision: One of ``PRECISIONS``.
    """

    def run(mixture: Tensor) -> Tensor:
        with torch.autocast(device.type, PRECISIONS[precision]):
            return forward(mixture).float()

    return forward if precision == "32-true" else run


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
