"""Bidirectional LSTMs; ``AxialBlock`` makes a dual-path block of two residual ones.

Not for ``torch.compile``, which unrolls an LSTM over time and takes minutes for it; cuDNN runs it
as one kernel.
"""

from __future__ import annotations

from torch import Tensor, nn


class BLSTM(nn.Module):
    """LSTM in both directions, then a linear layer back to the number of features.

    Args:
        features: D.
        hidden: Features of each direction.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (R, N, D) to the same shape."""
        # The LSTM expects steps first: (R, N, D) -> (N, R, D) and back.
        mapped: Tensor = self.linear(self.lstm(x.transpose(0, 1))[0])
        return mapped.transpose(0, 1)


class ResidualBLSTM(BLSTM):
    """``x + BLSTM(group norm(x))``.

    Args:
        features: D.
        hidden: Features of each direction.
        groups: Groups of features, each normalised over its features and all steps.
    """

    def __init__(self, features: int, hidden: int, groups: int = 1) -> None:
        super().__init__(features, hidden)
        self.norm = nn.GroupNorm(groups, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (R, N, D) to the same shape."""
        return x + super().forward(self.norm(x.transpose(1, 2)).transpose(1, 2))
