"""Write a track as WAV files, one for each stem and one for the mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from datamodules.files.audio import Audio
from datamodules.tracks.entries import MIXTURE
from datamodules.tracks.repair import BLOCK_SAMPLES, Format, Source, repaired_blocks

# Encoding -> bytes per sample.
SUBTYPES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
# As the doctor: the error of MUSDB18's AAC is below -32 dB.
_MIXTURE_ERROR_DB = -20.0


def write_track(
    sources: Sequence[Source], common: Format, folder: Path, stems: Sequence[str], subtype: str
) -> tuple[dict[str, int], list[str]]:
    """Write all files of a track block by block.

    Args:
        sources: The track's files, of which several may be parts of one stem.
        common: Length, rate and channels of the new files.
        folder: Folder of the new files.
        stems: Names of the stems; those without a file become silence.
        subtype: Key of `SUBTYPES`.

    Returns:
        Stem -> number of clipped samples, without stems that have none; and a warning if the
        mixture is not the sum of the stems.
    """
    names = (*stems, MIXTURE)
    readers: dict[str, list[Iterator[Audio]]] = {}
    for source in sources:
        readers.setdefault(source.stem, []).append(repaired_blocks(source, common))
    error = energy = 0.0
    clipped = dict.fromkeys(names, 0)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                soundfile.SoundFile(
                    folder / f"{name}.wav", "w", common.sample_rate, common.channels, subtype
                )
            )
            for name in names
        }
        for _ in range(0, common.samples, BLOCK_SAMPLES):
            blocks = {name: _next_sum(parts) for name, parts in readers.items()}
            first, *others = [blocks[stem] for stem in stems if stem in blocks]
            total = sum(others, start=first)
            mixture = blocks.setdefault(MIXTURE, total)
            error += float(np.square(mixture - total, dtype=np.float64).sum())
            energy += float(np.square(mixture, dtype=np.float64).sum())
            silence = np.zeros_like(total)
            for name, file in files.items():
                clipped[name] += _write_block(file, blocks.get(name, silence), subtype)
    warnings = []
    if error > energy * 10 ** (_MIXTURE_ERROR_DB / 10):
        error_db = 10 * np.log10(error / energy) if energy else np.inf
        file = next(source.path for source in sources if source.stem == MIXTURE)
        warnings.append(
            f"{file}: the mixture is not the sum of the stems: the difference is {error_db:.1f} dB "
            "of the mixture; it is kept, check that it is of the same song"
        )
    return {name: samples for name, samples in clipped.items() if samples}, warnings


def _next_sum(readers: Sequence[Iterator[Audio]]) -> Audio:
    first, *others = [next(reader) for reader in readers]
    return sum(others, start=first)


def _write_block(file: Any, block: Audio, subtype: str) -> int:
    if subtype == "FLOAT":
        file.write(block.T)
        return 0
    # Scaled here, because libsndfile multiplies by 2^15 - 1 when writing but divides by 2^15 when
    # reading.
    full_scale = 2 ** (8 * SUBTYPES[subtype] - 1)
    steps = np.rint(block.T * np.float64(full_scale))
    clipped = int(np.count_nonzero(np.abs(steps) > full_scale))
    steps = steps.clip(-full_scale, full_scale - 1)
    if subtype == "PCM_16":
        file.write(steps.astype(np.int16))
    else:  # libsndfile writes the upper 24 of 32 bits
        samples: npt.NDArray[np.int32] = steps.astype(np.int32) << 8
        file.write(samples)
    return clipped
