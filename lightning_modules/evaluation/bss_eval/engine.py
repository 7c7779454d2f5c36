"""BSS Eval v4: SDR, ISR, SIR and SAR of separated sources, with museval's results.

An estimate e of a source with image s is projected onto all delays 0 ... F - 1 of the source's own
channels, giving p1, and of all references' channels, giving p2. In each frame, with energies
summed over channels, in dB:

    SDR = |s|^2 / |e - s|^2              ISR = |s|^2 / |p1 - s|^2
    SIR = |p1|^2 / |p2 - p1|^2           SAR = |p2|^2 / |e - p2|^2

Literature: the decomposition is from Vincent, Gribonval and Févotte 2006, "Performance measurement
in blind audio source separation", IEEE TASLP 14(4); the form for spatial images is from Vincent
2012, "Improved perceptual metrics for the evaluation of audio source separation" (LVA/ICA). Version
4 fits one set of filters to a whole track: Stöter, Liutkus and Ito 2018, "The 2018 Signal
Separation Evaluation Campaign" (LVA/ICA). Frames are cut before they are filtered, so that filtered
frames are F - 1 samples longer.

The results and conventions are those of museval 0.4.1 (see `bss_eval`), computed dozens of times
faster: `projection` computes the energies without filtering, `toeplitz` solves for the filters.

Needs only NumPy. museval is imported only for the options that fall back to it, because it imports
musdb and stempeg, which need the ffmpeg and ffprobe programs even if no audio is decoded.
"""

import importlib.util
import math
import operator
import shutil
import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval import projection

_Scores = NDArray[np.float64]
_Signals = NDArray[np.generic]
_Result = tuple[_Scores, _Scores, _Scores, _Scores, NDArray[np.int64]]

_MAX_SOURCES = 100
# Above this condition number rounding changes museval's results by 1e-5 dB, soon by whole decibels.
_ILL_CONDITIONED = 1e10


class ScorerUnavailableError(RuntimeError):
    """BSS Eval cannot run on this machine; the message names the package to install."""


class BSSEvalWarning(UserWarning):
    """Rounding determines some digits of the scores; the message names the source."""


@dataclass
class Evaluation:
    """Scores of one track and their numerical reliability.

    Attributes:
        sdr: SDR in dB, shape (sources, frames).
        isr: ISR, likewise.
        sir: SIR.
        sar: SAR.
        permutation: Index of the estimate of each source, shape (sources, 1), or (sources, frames)
            with filters per frame.
        doubts: Source, or None for all of them -> why rounding determines some of the scores.
    """

    sdr: _Scores
    isr: _Scores
    sir: _Scores
    sar: _Scores
    permutation: NDArray[np.int64]
    doubts: dict[int | None, str] = field(default_factory=dict)


def bss_eval(
    reference_sources: NDArray[np.generic],
    estimated_sources: NDArray[np.generic],
    window: float = 2 * 44100,
    hop: float = 1.5 * 44100,
    compute_permutation: bool = False,
    filters_len: int = 512,
    framewise_filters: bool = False,
    bsseval_sources_version: bool = False,
    threads: int = 1,
) -> _Result:
    """Compare estimated sources with their references, frame by frame.

    Drop-in replacement of `museval.metrics.bss_eval`, with its conventions:

    * A source is silent in a frame if its channels sum to zero at every sample (so left = -right
      is silent too). A frame in which any reference or estimate is silent is NaN for all sources,
      but the filters are fitted to it too.
    * There are floor((samples - window + hop) / hop) frames, or one if the window is not shorter
      than the signals. Frame borders are rounded down; a tail shorter than a frame is ignored.
    * A zero denominator gives infinity, as does the SIR of a single source.
    * A sample that is not finite makes all scores that depend on it NaN.

    Differences: `BSSEvalWarning` is issued for references whose scores depend on rounding, and
    exactly singular matrices are solved, where museval 0.4.1 raises AttributeError with NumPy 2.

    All real types are computed in float64. If NumPy's BLAS is multithreaded, set
    `OPENBLAS_NUM_THREADS=1` to limit it to `threads`.

    Args:
        reference_sources: True sources, shape (sources, samples, channels); (sources, samples)
            is mono, (samples,) a single source.
        estimated_sources: Estimates in the same order, same shape.
        window: Length of a frame, samples; infinity for the whole signal.
        hop: Distance between the starts of two frames, samples.
        compute_permutation: Find the order of estimates with the best mean SIR (computed by
            museval).
        filters_len: Number of taps of the allowed distortion filters.
        framewise_filters: Fit filters to each frame, as BSS Eval v3 does.
        bsseval_sources_version: Compute the v2 and v3 "sources" scores instead of "images"
            (computed by museval).
        threads: Number of frames to process in parallel.

    Returns:
        SDR, ISR, SIR and SAR in dB, each of shape (sources, frames), then the permutation, shape
        (sources, 1), or (sources, frames) with `framewise_filters`. Empty input gives empty
        arrays.

    Raises:
        ValueError: The shapes differ, a reference or an estimate is completely silent, or there
            are more than 100 sources.
        ScorerUnavailableError: An option needs museval, and ffmpeg, ffprobe or museval is
            missing.

    Warns:
        BSSEvalWarning: Rounding determines some digits of a source's scores.
    """
    if compute_permutation or bsseval_sources_version:
        options = compute_permutation, filters_len, framewise_filters, bsseval_sources_version
        return _museval(reference_sources, estimated_sources, window, hop, *options)
    found = evaluate(
        reference_sources, estimated_sources, window, hop, filters_len, framewise_filters, threads
    )
    for source, doubt in found.doubts.items():
        name = "all sources" if source is None else f"source {source}"
        warnings.warn(f"{name}: {doubt}", BSSEvalWarning, stacklevel=2)
    return found.sdr, found.isr, found.sir, found.sar, found.permutation


def evaluate(
    reference_sources: NDArray[np.generic],
    estimated_sources: NDArray[np.generic],
    window: float = 2 * 44100,
    hop: float = 1.5 * 44100,
    filters_len: int = 512,
    framewise_filters: bool = False,
    threads: int = 1,
) -> Evaluation:
    """Compute the scores of `bss_eval` and return the warnings instead of issuing them.

    Arguments and errors are those of `bss_eval`.
    """
    references, estimates = np.atleast_3d(reference_sources), np.atleast_3d(estimated_sources)
    _check(references, estimates)
    if not references.size:
        empty = np.array([])
        return Evaluation(empty, empty, empty, empty, empty.astype(np.int64))
    frames = _frame_bounds(window, hop, references.shape[1])
    taps = operator.index(filters_len)
    if taps < 1:
        raise ValueError(f"filters_len is {taps}, expected the number of taps of a filter: 512")
    scored_frames = [
        index
        for index, (start, stop) in enumerate(frames)
        if not any(_silent(signals[:, start:stop]).any() for signals in (references, estimates))
    ]
    squares, energies, filters = projection.measure(
        references, estimates, frames, scored_frames, taps, framewise_filters, threads
    )
    source, _, distortion = squares.transpose(1, 0, 2)
    p1, spatial_distortion, interference, p2, artefacts = energies
    # museval sums the distortion from filtered parts, so NaN in the filters makes it NaN.
    distortion = np.where(np.isnan(p2), np.nan, distortion)
    identity = np.arange(len(references))[:, None]
    return Evaluation(
        sdr=_decibels(source, distortion),
        isr=_decibels(source, spatial_distortion),
        sir=_decibels(p1, interference),
        sar=_decibels(p2, artefacts),
        permutation=np.tile(identity, len(frames) if framewise_filters else 1),
        doubts=_doubts(filters),
    )


def _decibels(numerator: _Scores, denominator: _Scores) -> _Scores:
    """Ratio of energies (frames, S) in dB, shape (S, frames); infinite if the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(numerator / denominator)
    return np.where(denominator == 0, np.inf, ratio).T


def _doubts(filters: list[projection.Filters]) -> dict[int | None, str]:
    """Map sources, or None for all of them, to why rounding determines their scores."""
    # A condition of NaN, from samples that are not finite, shows in the scores.
    own = np.array([fitted.own_condition for fitted in filters])  # (sets of filters, S)
    found: dict[int | None, str] = {
        int(source): (
            "its channels are nearly the same, or a part of its spectrum is empty: rounding "
            "determines digits of its ISR and of all SIR and SAR"
        )
        for source in np.flatnonzero((own > _ILL_CONDITIONED).any(axis=0))
    }
    if not found and any(fitted.all_condition > _ILL_CONDITIONED for fitted in filters):
        found[None] = (
            "a reference is nearly a filtered sum of others, or the track is too short for so "
            "many taps: rounding determines digits of SIR and SAR"
        )
    return found


def _check(references: _Signals, estimates: _Signals) -> None:
    """Raise ValueError for what museval refuses, in its order; warn if the input is empty."""
    shape = references.shape
    if shape != estimates.shape:
        raise ValueError(
            f"The shapes of references and estimates should match, found {shape} and "
            f"{estimates.shape}: cut or resample the estimates to fit"
        )
    if len(shape) > 3:
        raise ValueError(
            f"Found signals of {len(shape)} axes, expected at most three: "
            "(sources, samples, channels)"
        )
    if not references.size:
        warnings.warn(f"Signals of shape {shape} are empty, and so are their scores", stacklevel=4)
    else:
        for name, signals in (("reference", references), ("estimated", estimates)):
            if (silent := np.flatnonzero(_silent(signals))).size:
                raise ValueError(
                    f"All {name} sources should be non-silent, found number "
                    f"{', '.join(map(str, silent))} silent throughout: leave it out"
                )
    if shape[0] > _MAX_SOURCES:
        raise ValueError(f"Found {shape[0]} sources, expected at most {_MAX_SOURCES}")


def _frame_bounds(window: float, hop: float, samples: int) -> list[tuple[int, int]]:
    """Start and exclusive stop, in samples, of each frame of a track of this length."""
    count = math.floor((samples - window + hop) / hop) if window < samples else 1
    if count < 0:
        raise ValueError(f"A hop of {hop} gives a negative number of frames, expected one above 0")
    bounds = []
    for index in range(count):
        start, stop = index * hop, index * hop + window
        # With an infinite hop or window, 0 times infinity is NaN.
        first = math.floor(start) if math.isfinite(start) else 0
        last = math.floor(stop) if stop < samples else samples
        # Negative windows count from the end, as in any slice.
        first, last, _ = slice(first, last).indices(samples)
        bounds.append((first, max(first, last)))
    return bounds


def _silent(signals: _Signals) -> NDArray[np.bool_]:
    """Whether the channels sum to zero at every sample, per source; signals (S, T, C)."""
    middle = signals.shape[1] // 2
    # A few samples are enough for most signals.
    silent: NDArray[np.bool_] = ~np.sum(signals[:, middle : middle + 64], axis=2).any(axis=1)
    for source in np.flatnonzero(silent):
        silent[source] = not np.sum(signals[source], axis=1).any()
    return silent


def _museval(*arguments: object) -> _Result:
    programs = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if programs:
        raise ScorerUnavailableError(
            f"These options are computed by museval, which needs {' and '.join(programs)}, found "
            "no such program on PATH: install the package 'ffmpeg' (apt install ffmpeg, or conda "
            "install ffmpeg)"
        )
    if importlib.util.find_spec("museval") is None:
        raise ScorerUnavailableError(
            "These options are computed by the Python package museval: pip install museval"
        )
    from museval.metrics import bss_eval as museval_bss_eval

    result: _Result = museval_bss_eval(*arguments)
    return result
