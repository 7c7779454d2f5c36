"""BSS Eval v4, the field's figures for music source separation, behind one name.

`bss_eval` takes the arguments and returns the results of `museval.metrics.bss_eval`. For now it
calls museval, which imports musdb and stempeg and therefore needs the ffmpeg and ffprobe programs
even where no audio is decoded. museval is imported inside the function: this module itself needs
NumPy alone, and costs nothing where nothing is scored.
"""

import importlib.util
import shutil

import numpy as np
from numpy.typing import NDArray

_Scores = NDArray[np.float64]


class ScorerUnavailableError(RuntimeError):
    """BSS Eval cannot run on this machine; the message names the package to install."""


def scorer_unavailable_reason() -> str | None:
    """Say why `bss_eval` cannot run here, without importing museval.

    Costs a look at PATH, so that callers can decide before any work starts.

    Returns:
        One line naming what is missing and the package to install; None if nothing is.
    """
    programs = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if programs:
        return (
            f"BSS Eval needs {' and '.join(programs)}, found no such program on PATH: "
            "install the package 'ffmpeg' (apt install ffmpeg, or conda install ffmpeg)"
        )
    if importlib.util.find_spec("museval") is None:
        return "BSS Eval needs the Python package museval: pip install museval"
    return None


def bss_eval(
    reference_sources: NDArray[np.floating],
    estimated_sources: NDArray[np.floating],
    window: float = 2 * 44100,
    hop: float = 1.5 * 44100,
    compute_permutation: bool = False,
    filters_len: int = 512,
    framewise_filters: bool = False,
    bsseval_sources_version: bool = False,
) -> tuple[_Scores, _Scores, _Scores, _Scores, NDArray[np.int64]]:
    """Compare estimated sources with their references, frame by frame.

    The decomposition is that of Vincent, Gribonval and Févotte 2006 ("Performance measurement in
    blind audio source separation"), with one set of distortion filters a track as in Stöter,
    Liutkus and Ito 2018 ("The 2018 Signal Separation Evaluation Campaign"). A frame in which any
    reference or any estimate is silent is NaN for all sources. Pass float64: museval computes in
    the precision it is given, and float32 loses whole decibels.

    Args:
        reference_sources: True sources, shape (sources, samples, channels).
        estimated_sources: Estimates in the same order, shape (sources, samples, channels).
        window: Length of a frame, samples; infinity for the whole signal.
        hop: Distance between the starts of two frames, samples.
        compute_permutation: Look for the order of estimates that has the best mean SIR.
        filters_len: Taps of the distortion filters that an estimate is allowed.
        framewise_filters: Fit the filters anew in every frame, as BSS Eval v3 does.
        bsseval_sources_version: Compute the v2 and v3 "sources" figures instead of "images".

    Returns:
        SDR, ISR, SIR and SAR in dB, each of shape (sources, frames), then the permutation, shape
        (sources, 1), or (sources, frames) with `framewise_filters`. Empty input gives empty
        arrays.

    Raises:
        ScorerUnavailableError: ffmpeg, ffprobe or museval is missing.
        ValueError: The shapes differ, or a reference or an estimate is silent throughout.
    """
    reason = scorer_unavailable_reason()
    if reason is not None:
        raise ScorerUnavailableError(reason)
    from museval.metrics import bss_eval as museval_bss_eval

    sdr, isr, sir, sar, permutation = museval_bss_eval(
        reference_sources,
        estimated_sources,
        window=window,
        hop=hop,
        compute_permutation=compute_permutation,
        filters_len=filters_len,
        framewise_filters=framewise_filters,
        bsseval_sources_version=bsseval_sources_version,
    )
    return sdr, isr, sir, sar, permutation
