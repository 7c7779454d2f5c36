"""Decoding of .stem.mp4 files: which stem each stream is, and whether their sum is the mixture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cache.folder import file_facts
from datamodules.errors import DataError, counted
from datamodules.files import audio, ffmpeg
from datamodules.files.names import is_stem_file
from datamodules.files.stream_names import (
    MIXTURE,
    STREAMS,
    StreamOrder,
    order_streams,
    read_stream_names,
)

# MUSDB18's AAC adds errors up to -32 dB of the mixture, a limiter on the mixture -15 dB; another
# stem in the place of the mixture usually more than -6 dB.
_MIXTURE_ERROR_DB = -10.0
# The stream that is the sum of the others has an error that much lower than the mixture's.
_CLEARLY_LOWER_DB = 6.0
# Means of this many samples are compared: AAC replaces noise at high frequencies by other noise.
_MEAN_SAMPLES = 8
_BLOCK_SAMPLES = 2**16


def stream_orders(
    paths: Sequence[Path], stems: Sequence[str], progress: bool = False
) -> tuple[dict[Path, StreamOrder], dict[Path, DataError]]:
    """Stems of the streams of each .stem.mp4 in ``paths``, and the errors of unclear files."""
    known, faults = file_facts().look_up(
        "stream names",
        read_stream_names,
        [path for path in paths if is_stem_file(path)],
        "reading names of streams",
        progress,
        is_valid=_are_names,
    )
    orders = {}
    for path, (_, names) in known.items():
        try:
            orders[path] = order_streams(path, names, stems)
        except DataError as fault:
            faults[path] = fault
    return orders, faults


def _are_names(value: Any) -> bool:
    """Whether a value from the cache can be a result of ``read_stream_names``."""
    return isinstance(value, list) and all(
        isinstance(place, list) and all(isinstance(name, str) for name in place) for place in value
    )


def stream_order(path: Path, stems: Sequence[str]) -> StreamOrder:
    """Stems of the streams of a .stem.mp4; raises a ``DataError`` if they are unclear."""
    orders, faults = stream_orders([path], stems)
    if faults:
        raise faults[path]
    return orders[path]


def order_suffix(order: StreamOrder | None) -> str:
    """Suffix of the name of a file's entry: each order of streams has an entry of its own."""
    if order is None or order.names == STREAMS:
        return ""
    return "-" + hashlib.blake2b(repr(order.names).encode(), digest_size=4).hexdigest()


def decoded_stem_file_size(path: Path, order: StreamOrder) -> int:
    """Check a file's header and compute the size of its decoded streams, bytes.

    Raises:
        DataError: The file is faulty, or has fewer streams than ``order``.
        FFmpegMissingError: ffmpeg is not installed.
    """
    streams = ffmpeg.inspect_streams(path)
    if len(streams) < len(order.names):
        raise DataError(
            f"{path}: has {counted(len(streams), 'audio stream')}, expected {len(order.names)} "
            f"({', '.join(order.names)}); replace or remove it"
        )
    used = [stream for stream, stem in zip(streams, order.names, strict=False) if stem]
    return sum(4 * stream.samples * stream.channels for stream in used)


def decode_stem_file(path: Path, folder: Path, order: StreamOrder) -> None:
    """Decode the streams of a .stem.mp4 to ``<folder>/<stem>.wav``, 32-bit floats."""
    targets = {number: folder / f"{stem}.wav" for number, stem in enumerate(order.names) if stem}
    ffmpeg.decode_streams(path, targets)


def mixture_error(folder: Path, order: StreamOrder) -> str:
    """What is wrong with the mixture that was decoded to a folder.

    Returns:
        A sentence if the difference from the sum of all other streams is above -10 dB of the
        mixture, at low frequencies; else, or without a mixture or if streams are not read, "".
    """
    names = order.names
    if MIXTURE not in names or not all(names):
        return ""
    products = _products([folder / f"{name}.wav" for name in names])
    if products is None:
        return ""
    signs = 2 * np.eye(len(names)) - 1  # one stream minus all others
    energies = np.diag(products)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors_db = 10 * np.log10(np.einsum("si,ij,sj->s", signs, products, signs) / energies)
    error_db = errors_db[names.index(MIXTURE)]
    if not error_db > _MIXTURE_ERROR_DB:
        return ""
    text = (
        f"stream {names.index(MIXTURE) + 1}, the mixture, is not the sum of the other streams: the "
        f"difference is {error_db:.1f} dB of the mixture"
    )
    best = int(np.argmin(np.nan_to_num(errors_db, nan=np.inf)))
    if errors_db[best] < error_db - _CLEARLY_LOWER_DB:
        text += f"; stream {best + 1} ({names[best]}) is the sum of the others"
    return text


def _products(files: Sequence[Path]) -> np.ndarray | None:
    """Scalar products of waveforms, shape (files, files); None if their channels differ."""
    products = np.zeros((len(files), len(files)))
    for blocks in zip(*(audio.blocks(file, _BLOCK_SAMPLES) for file in files), strict=False):
        if len({len(block) for block in blocks}) > 1:
            return None
        means = min(block.shape[1] for block in blocks) // _MEAN_SAMPLES
        low = np.stack([block[:, : means * _MEAN_SAMPLES] for block in blocks])
        low = low.reshape(len(blocks), -1, _MEAN_SAMPLES).mean(-1)
        products += low @ low.T
    return products
