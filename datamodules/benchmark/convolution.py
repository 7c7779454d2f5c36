"""What convolution with room responses costs: by FFT as in training, against direct, and others.

Stereo noise of some lengths is convolved with responses of some lengths, in turn; figures are
seconds of audio in a second of processor time, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.signal
import torch
import torchaudio
from torch import Tensor

from datamodules.augmentations.convolution import convolve
from datamodules.errors import DataError
from datamodules.markdown import markdown

_RATE = 44100
# Direct convolution of a song with a hall would take hours.
_MOST_PRODUCTS = 2e11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    add = parser.add_argument
    add("--segment-seconds", type=float, nargs="+", default=[2.0, 6.0, 30.0], help="of the music")
    add("--response-seconds", type=float, nargs="+", default=[0.01, 0.1, 0.5], help="of the rooms")
    add("--repeats", type=int, default=5, help="rounds that count (default 5)")


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that measure nothing.

    Args:
        options: What ``add_arguments`` asked for.

    Raises:
        DataError: A number is not above 0.
    """
    lengths = (*options.segment_seconds, *options.response_seconds, options.repeats)
    if not all(0 < length < float("inf") for length in lengths):
        raise DataError(
            f"--segment-seconds is {options.segment_seconds}, --response-seconds "
            f"{options.response_seconds}, --repeats {options.repeats}: give numbers above 0"
        )


def direct(waveforms: Tensor, responses: Tensor) -> Tensor:
    """Convolve by the sum of products, as SciPy does; shapes as of ``convolve``."""
    rows = [
        scipy.signal.convolve(waveform, response, method="direct")[: len(waveform)]
        for waveform, response in zip(waveforms.numpy(), responses.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def by_torchaudio(waveforms: Tensor, responses: Tensor) -> Tensor:
    """Convolve by torchaudio's FFT, whose length is that of the result."""
    found: Tensor = torchaudio.functional.fftconvolve(waveforms, responses)
    return found[..., : waveforms.shape[-1]]


def by_blocks(waveforms: Tensor, responses: Tensor) -> Tensor:
    """Convolve by SciPy's FFT of overlapping blocks."""
    found = scipy.signal.oaconvolve(waveforms.numpy(), responses.numpy(), axes=-1)
    return torch.from_numpy(found[..., : waveforms.shape[-1]])


ENTRANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "direct (SciPy)": direct,
    "Stemlab": convolve,
    "torchaudio fftconvolve": by_torchaudio,
    "SciPy oaconvolve": by_blocks,
}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all, in one thread.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        What was measured, in JSON's types.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            _measure(segment, response, options.repeats)
            for segment in options.segment_seconds
            for response in options.response_seconds
        ]
    finally:
        torch.set_num_threads(threads)
    return {"repeats": options.repeats, "torch": torch.__version__, "rows": rows}


def _measure(segment_seconds: float, response_seconds: float, repeats: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    samples, length = (max(1, round(s * _RATE)) for s in (segment_seconds, response_seconds))
    waveforms, responses = (torch.randn(2, n, generator=random) for n in (samples, length))
    feasible = {
        name: partial(entrant, waveforms, responses)
        for name, entrant in ENTRANTS.items()
        if entrant is not direct or 2.0 * samples * length < _MOST_PRODUCTS
    }
    seconds: dict[str, list[float]] = {name: [] for name in feasible}
    for turn in range(1 + repeats):
        for name, run in feasible.items():
            began = time.process_time()
            run()
            if turn:  # the first plans and allocates
                seconds[name].append(time.process_time() - began)
    return {
        "segment_seconds": segment_seconds,
        "response_seconds": response_seconds,
        "audio_seconds_per_cpu_second": {
            name: segment_seconds / statistics.median(each) for name, each in seconds.items()
        },
    }


def table(report: dict[str, Any]) -> str:
    """Write a report for people.

    Args:
        report: What ``compare`` returned.

    Returns:
        Settings and table, in lines.
    """
    lines = [["music", "response", *ENTRANTS, "Stemlab / direct"]]
    for row in report["rows"]:
        figures = row["audio_seconds_per_cpu_second"]
        ratio = figures["Stemlab"] / figures["direct (SciPy)"] if "direct (SciPy)" in figures else 0
        lines.append(
            [
                f"{row['segment_seconds']:g} s",
                f"{row['response_seconds']:g} s",
                *(f"{figures[name]:,.3g}" if name in figures else "-" for name in ENTRANTS),
                f"{ratio:,.3g}" if ratio else "-",
            ]
        )
    head = (
        f"Stereo at 44.1 kHz, seconds of audio in a second of one thread; torch {report['torch']}; "
        f"median of {report['repeats']}."
    )
    return "\n".join([head, "", *markdown(lines)])
