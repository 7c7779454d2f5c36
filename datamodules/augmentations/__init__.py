"""Augmentations of training examples: levels, filters, noise, rooms, codecs, pitch and tempo."""

from datamodules.augmentations.base import Augmentation, FusedAugmentation, StemAugmentation
from datamodules.augmentations.codec import Codec
from datamodules.augmentations.dynamics import Limiter, SoftClip
from datamodules.augmentations.filters import (
    BandStop,
    HighShelf,
    LowShelf,
    PeakingEqualizer,
    Reverb,
)
from datamodules.augmentations.noise import ColouredNoise, GaussianNoise, RecordedNoise
from datamodules.augmentations.repitch import Repitch, Speed
from datamodules.augmentations.rooms import DecayingNoise, RecordedRoom, Room, ShoeboxRoom
from datamodules.augmentations.simple import (
    ChannelSwap,
    Gain,
    Mixup,
    Mono,
    Pan,
    Polarity,
    Remix,
    Silence,
    TimeShift,
)

__all__ = [
    "Augmentation",
    "BandStop",
    "ChannelSwap",
    "Codec",
    "ColouredNoise",
    "DecayingNoise",
    "FusedAugmentation",
    "Gain",
    "GaussianNoise",
    "HighShelf",
    "Limiter",
    "LowShelf",
    "Mixup",
    "Mono",
    "Pan",
    "PeakingEqualizer",
    "Polarity",
    "RecordedNoise",
    "RecordedRoom",
    "Remix",
    "Repitch",
    "Reverb",
    "Room",
    "ShoeboxRoom",
    "Silence",
    "SoftClip",
    "Speed",
    "StemAugmentation",
    "TimeShift",
]
