"""Centre crop, for skips around convolutions without padding."""

from __future__ import annotations

from torch import Tensor


def centre(signals: Tensor, samples: int) -> Tensor:
    """Crop signals to their centre.

    Args:
        signals: Any signals, shape (..., T).
        samples: Length of the crop, at most T; an odd difference removes one more at the end.

    Returns:
        A view, shape (..., samples).
    """
    return signals.narrow(-1, (signals.shape[-1] - samples) // 2, samples)
