"""Mel-Band RoFormer: BS-RoFormer with overlapping bands of the mel scale.

Wang, Lu and Won 2023, "Mel-band RoFormer for music source separation". Forward passes agree with
those of the package ``msst`` with the same weights. Beside the bands, its network has a norm at
the end of each transformer instead of one at the end, and published vocals models have two hidden
layers in the mask estimators. With the paper's sizes (``head_features`` 48) and one stereo source,
6, 9 and 12 blocks have 84,193,572, 94,847,316 and 105,501,060 parameters (printed: 84.2 and 105
million for 6 and 12; ``msst`` also counts 48 constants, its rotary frequencies).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_modules.architectures.bs_roformer import BandSplitTransformer
from lightning_modules.layers.bands import mel_bands


class MelBandRoFormer(BandSplitTransformer):
    """Mel-Band RoFormer.

    Args:
        sources: Names of the sources, in the order of the estimates.
        number_of_bands: Number of mel bands.
        n_fft: Length of a frame, samples.
        sample_rate: Sample rate of mixture and estimates, Hz.
        **kwargs: Arguments of ``BandSplitTransformer``.
    """

    fixed_arguments = frozenset({"bands", "norm_per_transformer"})
    tiny: ClassVar[Mapping[str, Any]] = {
        "features": 8, "blocks": 1, "heads": 2, "head_features": 4, "mask_expansion": 1,
        "n_fft": 256, "hop_length": 64, "number_of_bands": 12,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        number_of_bands: int = 60,
        n_fft: int = 2048,
        sample_rate: int = 44100,
        **kwargs: Any,
    ) -> None:
        bands = mel_bands(number_of_bands, n_fft, sample_rate)
        super().__init__(
            sources, bands, norm_per_transformer=True, n_fft=n_fft, sample_rate=sample_rate,
            **kwargs,
        )  # fmt: skip
