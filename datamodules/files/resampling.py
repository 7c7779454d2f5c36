"""Files at another sample rate."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from datamodules.errors import DataError
from datamodules.files import audio

# torchaudio's translation of resampy's "kaiser_best": pass band up to 0.95 of the lower Nyquist.
_ZEROS = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492
_BLOCK_SAMPLES = 2**19
# The filter has a phase for each sample of the shortest time that is whole in both rates: 160
# phases from 44.1 to 48 kHz, 11,025 from 44.056 (of old video recorders) to 44.1 kHz.
_LARGEST_FILTER = 2**24


def resample_file(path: Path, target: Path, sample_rate: int) -> None:
    """Write a file at another rate, as float32 WAV of ceil(samples × new / old) samples.

    The samples are those of a windowed sinc (Smith, Digital Audio Resampling, Kaiser window) over
    the whole file, computed block by block in bounded memory.

    Args:
        path: The file, of a format that soundfile reads.
        target: The WAV file.
        sample_rate: The new rate, Hz.

    Raises:
        DataError: The file is damaged, or the rates are too odd a pair.
    """
    info = audio.inspect_seekable(path)
    common = math.gcd(info.sample_rate, sample_rate)
    old, new = info.sample_rate // common, sample_rate // common
    reach = math.ceil(_ZEROS * old / min(old, new) / _ROLLOFF)  # of the filter, samples
    if new * (2 * reach + old) > _LARGEST_FILTER:
        raise DataError(
            f"{path}: sample rate is {info.sample_rate} Hz, which has too little in common with "
            f"the wanted {sample_rate} Hz; convert it, for instance by: ffmpeg -i OLD -ar "
            f"{sample_rate} NEW.wav"
        )
    # Computed in single precision the filter's phases would be off by -110 dB.
    resample = torchaudio.transforms.Resample(
        old, new, "sinc_interp_kaiser", _ZEROS, _ROLLOFF, _BETA, dtype=torch.float64
    ).float()
    # Blocks and what they overlap begin where a sample of one rate coincides with one of the other.
    overlap = math.ceil(reach / old) * old
    block = math.ceil(_BLOCK_SAMPLES / old) * old
    with soundfile.SoundFile(
        target, "w", sample_rate, info.channels, "FLOAT", format="WAV"
    ) as file:
        for start in range(0, info.samples, block):
            before = min(overlap, start)
            samples = min(block + overlap, info.samples - start)
            part = audio.read(path, start - before, before + samples)
            done = resample(torch.from_numpy(part)).numpy()
            first = before // old * new
            length = -(-min(block, info.samples - start) * new // old)
            file.write(np.ascontiguousarray(done[:, first : first + length].T))
