"""Bidirectional LSTM with a residual connection; ``AxialBlock`` makes a dual-path block of two."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBLSTM(nn.Module):
    """``x + linear(LSTM(group norm(x)))``, with an LSTM in both directions.

    Not for ``torch.compile``, which unrolls an LSTM over time and takes minutes for it; cuDNN runs
    it as one kernel.

    Args:
        features: D.
        hidden: Features of each direction.
        groups: Groups of features, each normalised over its features and all steps.
    """

    def __init__(self, features: int, hidden: int, groups: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, features)
        self.lstm = nn.LSTM(features, hidden, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (R, N, D) to the same shape."""
        steps = self.norm(x.transpose(1, 2)).permute(2, 0, 1)  # (R, D, N) -> (N, R, D)
        mapped: Tensor = self.linear(self.lstm(steps)[0])
        return x + mapped.transpose(0, 1)
