"""What convolutions without padding leave of a signal: its middle."""

from __future__ import annotations

from torch import Tensor


def centre(signals: Tensor, samples: int) -> Tensor:
    """Cut the middle out of signals.

    Args:
        signals: Any signals, shape (..., T).
        samples: Length to cut out, at most T; an odd rest loses one more at the end.

    Returns:
        A view, shape (..., samples).
    """
    return signals.narrow(-1, (signals.shape[-1] - samples) // 2, samples)
