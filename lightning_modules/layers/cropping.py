"""Centre crop, for skips around convolutions without padding."""

from __future__ import annotations

from torch import Tensor


def centre(signals: Tensor, samples: int) -> Tensor:
    """Return a view (..., samples) of the centre of signals (..., T).

    An odd difference removes one more sample at the end.
    """
    return signals.narrow(-1, (signals.shape[-1] - samples) // 2, samples)
