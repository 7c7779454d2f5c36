"""BSS Eval v4, the field's figures for music source separation: museval's, dozens of times faster.

An estimate e of a source with image s is projected on all delays 0 ... F - 1 of the source's own
channels, giving p1, and of all references' channels, giving p2; in each frame, summed over
channels,

    SDR = |s|^2 / |e - s|^2              ISR = |s|^2 / |p1 - s|^2
    SIR = |p1|^2 / |p2 - p1|^2           SAR = |p2|^2 / |e - p2|^2

in dB. The decomposition is that of Vincent, Gribonval and Févotte 2006, "Performance measurement in
blind audio source separation", IEEE TASLP 14(4), and with spatial images, of Vincent 2012,
"Improved perceptual metrics for the evaluation of audio source separation" (LVA/ICA). Version 4
fits one set of filters to a whole track: Stöter, Liutkus and Ito 2018, "The 2018 Signal Separation
Evaluation Campaign" (LVA/ICA). Frames are cut out first and filtered then, F - 1 samples longer.

The figures are those of museval 0.4.1, whose conventions are kept: see `bss_eval`. How they are
found without filtering anything is told in `projection`, how the filters are, in `toeplitz`.

Needs NumPy alone. museval is imported only for the options that fall back to it: it imports musdb
and stempeg, and they need the ffmpeg and ffprobe programs even where no audio is decoded.
"""

import importlib.util
import math
import operator
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval import projection

_Figures = NDArray[np.float64]
_Signals = NDArray[np.generic]
_FourFigures = tuple[_Figures, _Figures, _Figures, _Figures]
_Flags = NDArray[np.bool_]
_Result = tuple[*_FourFigures, NDArray[np.int64]]

_MOST_SOURCES = 100
# From this condition on museval itself moves by 1e-5 dB, and soon by whole ones.
_ILL_CONDITIONED = 1e10


class _Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> Sequence[int]: ...


class ScorerUnavailableError(RuntimeError):
    """BSS Eval cannot run on this machine; the message names the package to install."""


class BSSEvalWarning(UserWarning):
    """Figures exist, and rounding decides some of their digits; the message names the source."""


@dataclass
class Evaluation:
    """Figures of one track, with what is to be known about them.

    Attributes:
        sdr: SDR in dB, shape (sources, frames).
        isr: ISR in dB, same shape.
        sir: SIR in dB, same shape.
        sar: SAR in dB, same shape.
        permutation: Which estimate belongs to which source, shape (sources, 1) or, with filters
            of each frame, (sources, frames).
        doubts: Source, or None for all of them -> why rounding decides some of the figures.
    """

    sdr: _Figures
    isr: _Figures
    sir: _Figures
    sar: _Figures
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

    Takes and returns what `museval.metrics.bss_eval` does. Its conventions:

    * A source is silent in a frame if its channels add up to zero at every sample (so that left =
      -right is silent too). A frame in which any reference or any estimate is silent is NaN for
      all sources, and still counts for the filters.
    * There are floor((samples - window + hop) / hop) frames, or one if the window is not shorter
      than the signals; borders are rounded down, a tail that fills no frame is left out.
    * A zero denominator gives infinity; so does the SIR of a lone source.
    * A sample that is not finite makes NaN of all figures that depend on it.

    Beyond them, `BSSEvalWarning` tells of references whose figures rounding decides, and matrices
    that are exactly singular are solved, where museval 0.4.1 asks NumPy 2 for a name that it no
    longer has (AttributeError).

    Signals of any real type are computed with in float64. Where NumPy's BLAS uses threads of its
    own, `OPENBLAS_NUM_THREADS=1` in the environment keeps it to the threads asked for here.

    Args:
        reference_sources: True sources, shape (sources, samples, channels); (sources, samples)
            is mono, (samples,) one source.
        estimated_sources: Estimates in the same order, same shape.
        window: Length of a frame, samples; infinity for the whole signal.
        hop: Distance between the starts of two frames, samples.
        compute_permutation: Look for the order of estimates that has the best mean SIR (by
            museval itself).
        filters_len: Taps of the distortion filters that an estimate is allowed.
        framewise_filters: Fit the filters anew in every frame, as BSS Eval v3 does.
        bsseval_sources_version: Compute the v2 and v3 "sources" figures instead of "images" (by
            museval itself).
        threads: How many frames are worked on at once.

    Returns:
        SDR, ISR, SIR and SAR in dB, each of shape (sources, frames), then the permutation, shape
        (sources, 1), or (sources, frames) with `framewise_filters`. Empty input gives empty
        arrays.

    Raises:
        ValueError: The shapes differ, a reference or an estimate is silent throughout, or there
            are more than 100 sources.
        ScorerUnavailableError: An option asks for museval, and ffmpeg, ffprobe or museval is
            missing.

    Warns:
        BSSEvalWarning: Rounding decides some digits of a source's figures.
    """
    if compute_permutation or bsseval_sources_version:
        return _museval(
            reference_sources,
            estimated_sources,
            window=window,
            hop=hop,
            compute_permutation=compute_permutation,
            filters_len=filters_len,
            framewise_filters=framewise_filters,
            bsseval_sources_version=bsseval_sources_version,
        )
    found = evaluate(
        reference_sources, estimated_sources, window, hop, filters_len, framewise_filters, threads
    )
    warn(found)
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
    """Do what `bss_eval` does for mode v4, doubts returned beside the figures.

    Args:
        reference_sources: See `bss_eval`, as for all that follow.
        estimated_sources: Estimates.
        window: Length of a frame, samples.
        hop: Distance between the starts of two frames, samples.
        filters_len: Taps of the distortion filters.
        framewise_filters: Fit the filters anew in every frame.
        threads: How many frames are worked on at once.

    Returns:
        The figures.

    Raises:
        ValueError: As `bss_eval`.
    """
    references, estimates = np.atleast_3d(reference_sources), np.atleast_3d(estimated_sources)
    if is_empty(references, estimates, lambda: (_silent(references), _silent(estimates))):
        none = np.array([])
        return Evaluation(none, none, none, none, none.astype(np.int64))
    frames = frame_bounds(window, hop, references.shape[1])
    taps = tap_count(filters_len)
    audible = [
        index
        for index, (start, stop) in enumerate(frames)
        if not _silent(references[:, start:stop]).any()
        and not _silent(estimates[:, start:stop]).any()
    ]
    found = projection.measure(
        references, estimates, frames, audible, taps, framewise_filters, threads
    )
    sources = np.arange(len(references))[:, None]
    return Evaluation(
        *decibels(found.squares, found.energies),
        np.tile(sources, len(frames) if framewise_filters else 1),
        doubts(
            np.array([filters.own_condition for filters in found.filters]),
            np.array([filters.all_condition for filters in found.filters]),
        ),
    )


def is_empty(
    references: _Shaped, estimates: _Shaped, silent: Callable[[], tuple[_Flags, _Flags]]
) -> bool:
    """Refuse what museval refuses, in its order.

    Args:
        references: True sources, (sources, samples, channels): an array of any kind.
        estimates: Estimates.
        silent: Finds which references and which estimates are silent throughout.

    Returns:
        Whether there is nothing to compare, which museval allows with a warning.

    Raises:
        ValueError: See `bss_eval`.
    """
    shape = tuple(references.shape)
    if shape != tuple(estimates.shape):
        raise ValueError(
            f"The shapes of references and estimates should match, found {shape} and "
            f"{tuple(estimates.shape)}: cut or resample the estimates to fit"
        )
    if len(shape) > 3:
        raise ValueError(
            f"Found signals of {len(shape)} axes, expected at most three: "
            "(sources, samples, channels)"
        )
    empty = math.prod(shape) == 0
    if empty:
        warnings.warn(f"Signals of shape {shape} are empty, and so are their scores", stacklevel=4)
    else:
        for name, flags in zip(("reference", "estimated"), silent(), strict=True):
            if flags.any():
                raise ValueError(
                    f"All {name} sources should be non-silent, found number "
                    f"{', '.join(map(str, np.flatnonzero(flags)))} silent throughout: leave it out"
                )
    if shape[0] > _MOST_SOURCES:
        raise ValueError(f"Found {shape[0]} sources, expected at most {_MOST_SOURCES}")
    return empty


def frame_bounds(window: float, hop: float, samples: int) -> list[tuple[int, int]]:
    """Find the frames.

    Args:
        window: Length of a frame, samples.
        hop: Distance between the starts of two frames, samples.
        samples: Length of the track.

    Returns:
        First sample and one past the last of each frame.
    """
    count = math.floor((samples - window + hop) / hop) if window < samples else 1
    if count < 0:
        raise ValueError(f"A hop of {hop} gives a negative number of frames, expected one above 0")
    bounds = []
    for index in range(count):
        start, stop = index * hop, index * hop + window
        # an infinite hop or window: 0 times infinity is not a number
        first = math.floor(start) if math.isfinite(start) else 0
        last = math.floor(min(stop, samples)) if math.isfinite(min(stop, samples)) else samples
        # negative windows count from the end, as in any slice
        first, last, _ = slice(first, last).indices(samples)
        bounds.append((first, max(first, last)))
    return bounds


def tap_count(filters_len: int) -> int:
    """Check the number of taps; raises ValueError or TypeError."""
    taps = operator.index(filters_len)
    if taps < 1:
        raise ValueError(f"filters_len is {taps}, expected the number of taps of a filter: 512")
    return taps


def decibels(squares: _Figures, energies: _Figures) -> _FourFigures:
    """Make figures of energies.

    Args:
        squares: |s|^2, |e|^2 and |e - s|^2, shape (frames, 3, S); NaN where a frame is skipped.
        energies: |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2 and |e - p2|^2, shape (5, frames, S).

    Returns:
        SDR, ISR, SIR, SAR in dB, each of shape (S, frames).
    """
    own, spatial, interference, every, artefacts = energies
    target, _, distortion = squares.transpose(1, 0, 2)
    # museval adds the distortion up from parts that the filters enter, and NaN with them
    distortion = np.where(np.isnan(every), np.nan, distortion)

    def ratio(numerator: _Figures, denominator: _Figures) -> _Figures:
        with np.errstate(divide="ignore", invalid="ignore"):
            level = 10 * np.log10(numerator / denominator)
        return np.where(denominator == 0, np.inf, level).T

    return (
        ratio(target, distortion),
        ratio(target, spatial),
        ratio(own, interference),
        ratio(every, artefacts),
    )


def doubts(own: _Figures, together: _Figures) -> dict[int | None, str]:
    """Say whose figures rounding decides.

    Args:
        own: Condition of each source's own system, for each set of filters, shape (sets, S).
        together: Condition of the system of all references, shape (sets,).

    Returns:
        Source, or None for all of them -> the reason.
    """
    # NaN, from samples that are not finite, is told by the figures themselves
    found: dict[int | None, str] = {
        int(source): (
            "its channels are nearly the same, or empty in a part of the spectrum: rounding "
            "decides digits of its ISR and of all SIR and SAR"
        )
        for source in np.flatnonzero((own > _ILL_CONDITIONED).any(axis=0))
    }
    if not found and (together > _ILL_CONDITIONED).any():
        found[None] = (
            "a reference is nearly a filtered sum of others, or the track too short for so many "
            "taps: rounding decides digits of SIR and SAR"
        )
    return found


def warn(found: Evaluation) -> None:
    """Turn doubts into warnings of whoever called `bss_eval`."""
    for source, doubt in found.doubts.items():
        name = "all sources" if source is None else f"source {source}"
        warnings.warn(f"{name}: {doubt}", BSSEvalWarning, stacklevel=3)


def _silent(signals: _Signals) -> _Flags:
    """Whether channels add up to zero at every sample, for each source; signals (S, T, C)."""
    middle = signals.shape[1] // 2
    # a glance is enough for most
    silent: _Flags = ~np.sum(signals[:, middle : middle + 64], axis=2).any(axis=1)
    for source in np.flatnonzero(silent):
        silent[source] = not np.sum(signals[source], axis=1).any()
    return silent


def _museval(*signals: _Signals, **options: object) -> _Result:
    """Call museval itself."""
    reason = museval_unavailable_reason()
    if reason is not None:
        raise ScorerUnavailableError(reason)
    from museval.metrics import bss_eval as museval_bss_eval

    sdr, isr, sir, sar, permutation = museval_bss_eval(*signals, **options)
    return sdr, isr, sir, sar, permutation


def museval_unavailable_reason() -> str | None:
    """Say why museval cannot be imported here, without importing it.

    Returns:
        One line naming what is missing and the package to install; None if nothing is.
    """
    programs = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if programs:
        return (
            f"These options are left to museval, and museval needs {' and '.join(programs)}, "
            "found no such program on PATH: "
            "install the package 'ffmpeg' (apt install ffmpeg, or conda install ffmpeg)"
        )
    if importlib.util.find_spec("museval") is None:
        return "These options are left to the Python package museval: pip install museval"
    return None
