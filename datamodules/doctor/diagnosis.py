"""Findings from measurements of tracks, and their thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from datamodules.doctor.fingerprints import Pair
from datamodules.doctor.measurements import SILENT_DB, FileMeasures, MixtureMeasures, TrackMeasures
from datamodules.tracks.checks import nan_finding
from datamodules.tracks.findings import Finding
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import MIXTURE, Entry

# Stems of pop songs are at -15 to -35 dBFS.
FAINT_DB = -40.0
# In a loudly mastered record 1 sample in 10,000 is clipped, in a damaged file 1 in 1,000.
CLIPPED_SHARE = 1e-3
# -60 dB of full scale, more than current converters have; and -40 dB.
DC_NOTE, DC_WARNING = 1e-3, 1e-2
# MUSDB18's AAC adds errors up to -32 dB, a limiter on the mixture -15 dB; another song +3 dB.
MIXTURE_NOTE_DB, MIXTURE_WARNING_DB = -20.0, -10.0


def diagnose(entry: Entry, track: Track, measures: TrackMeasures) -> list[Finding]:
    """Findings about a track's audio: about each file, then about the whole track."""
    findings = []
    for name, file in measures.files.items():
        path = track.mixture if name == MIXTURE else track.stems[name]
        assert path is not None
        if file.first_nonfinite is not None:
            findings.append(nan_finding(path, file.first_nonfinite, track.sample_rate))
        in_data_set = not entry.is_stem_file and (name,) == tuple(
            stem for stem, paths in entry.find([name]).items() if paths == (path,)
        )
        where = str(path) if in_data_set else f"{entry.path}, {name}"
        findings += _file_findings(where, name, file)
    findings += _common_findings(str(entry.path), measures.files)
    damaged = any(file.first_nonfinite is not None for file in measures.files.values())
    if measures.mixture is not None and not damaged:
        findings += _mixture_findings(str(entry.path), measures.mixture)
    return findings


def different_rates(tracks: Sequence[Track]) -> list[Finding]:
    """A warning for each track whose sample rate differs from most tracks."""
    counts = Counter(track.sample_rate for track in tracks)
    usual = counts.most_common(1)[0][0] if counts else 0
    return [
        Finding(
            "warning",
            "unlike-rate",
            str(next(iter(track.stems.values())).parent),
            f"sample rate is {track.sample_rate} Hz, but {counts[usual]} of {len(tracks)} tracks "
            f"have {usual} Hz",
            "training resamples it; check that it does not lack high frequencies, or remove it",
        )
        for track in tracks
        if track.sample_rate != usual
    ]


def duplicates(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Iterator[Finding]:
    """An error for each pair of tracks of two subsets that sound alike; else a warning."""
    for first, second, correlation, shift_seconds in pairs:
        one, other = entries[first], entries[second]
        leak = one.subset != other.subset
        shift = f", {abs(shift_seconds):.1f} s {'later' if shift_seconds > 0 else 'earlier'}"
        yield Finding(
            "error" if leak else "warning",
            "duplicate",
            str(other.path),
            f"sounds like {one.subset}/{one.name} (correlation {correlation:.2f} of 1"
            f"{shift if shift_seconds else ''}), expected another song",
            f"remove the one in {one.subset}: scores of songs that training or validation used are "
            "too high"
            if leak
            else "listen to both and remove one; otherwise one may be used for validation",
        )


def channel_names(channels: int) -> Sequence[str]:
    """Names of channels, in order: left and right, or numbers."""
    if channels == 2:
        return ("left", "right")
    return tuple(f"channel {number + 1}" for number in range(channels))


def _file_findings(where: str, name: str, file: FileMeasures) -> Iterator[Finding]:
    if file.is_silent:
        level = "digital silence" if file.rms_db < -120 else f"never above {SILENT_DB:g} dBFS"
        yield Finding(
            "warning",
            "silent-stem",
            where,
            f"silent throughout ({level}), expected audio",
            "export it again; if the song has no such part, keep it: training uses it as "
            "silence, BSS Eval gives it no score",
        )
    elif file.rms_db < FAINT_DB:
        yield Finding(
            "note",
            "faint-stem",
            where,
            f"RMS {file.rms_db:.1f} dBFS, {file.silent_share:.0%} of its seconds silent; above "
            f"{FAINT_DB:g} dBFS is usual",
            "check that it was not exported too softly",
        )
    if file.clipped_share:
        yield Finding(
            "warning" if file.clipped_share > CLIPPED_SHARE else "note",
            "clipping",
            where,
            f"{100 * file.clipped_share:.2g} % of its samples are clipped (runs of three or "
            f"more at full scale); up to {100 * CLIPPED_SHARE:.2g} % is common",
            "export it again at a lower level" + (" with its stems" * (name == MIXTURE)),
        )
    if abs(file.dc_offset) > DC_NOTE:
        yield Finding(
            "warning" if abs(file.dc_offset) > DC_WARNING else "note",
            "dc-offset",
            where,
            f"mean is {file.dc_offset:+.4f} of full scale, expected less than {DC_NOTE:g}",
            "apply a high-pass filter at 5 to 20 Hz",
        )


def _common_findings(where: str, files: dict[str, FileMeasures]) -> Iterator[Finding]:
    equal = [name for name, file in files.items() if file.channels_equal and not file.is_silent]
    if equal:
        yield Finding(
            "note",
            "dual-mono",
            where,
            f"the channels are the same in {', '.join(equal)}",
            "nothing to do if they were recorded in mono",
        )
    over = [f"{name} {file.peak_db:+.1f} dB" for name, file in files.items() if file.peak_db > 0]
    if over:
        yield Finding(
            "note",
            "over-full-scale",
            where,
            f"peaks above full scale: {', '.join(over)}",
            "nothing to do for training; datamodules.convert needs --subtype FLOAT, integers "
            "would clip them",
        )


def _mixture_findings(where: str, mixture: MixtureMeasures) -> Iterator[Finding]:
    worst = max(mixture.error_db)
    if worst <= MIXTURE_NOTE_DB:
        return
    names = channel_names(len(mixture.error_db))
    errors = ", ".join(
        f"{name} {error:.1f} dB" for name, error in zip(names, mixture.error_db, strict=True)
    )
    finding = (
        f"the mixture is not the sum of the stems: the difference is {errors} of the mixture, "
        f"expected below {MIXTURE_NOTE_DB:g} dB"
    )
    # A gain explains the error if it removes nearly all of it.
    if max(mixture.error_after_gain_db) <= min(MIXTURE_NOTE_DB, worst - 10):
        gains = ", ".join(f"{gain:.3f}" for gain in mixture.gain)
        finding += f" (the mixture is the sum times {gains})"
    yield Finding(
        "warning" if worst > MIXTURE_WARNING_DB else "note",
        "mixture-unlike-sum",
        where,
        finding,
        "nothing to do for training, which sums the stems; scores use the mixture: restore or "
        "remove the track, except to compare with published scores that include it",
    )
