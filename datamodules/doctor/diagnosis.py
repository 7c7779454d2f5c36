"""What the measures of a track mean: findings, with the thresholds that make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from datamodules.doctor.fingerprints import Pair
from datamodules.doctor.measurements import SILENT_DB, FileMeasures, MixtureMeasures, TrackMeasures
from datamodules.tracks.checks import nan_finding
from datamodules.tracks.findings import Finding, Severity
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import MIXTURE, Entry

# Stems of pop songs lie at -15 to -35 dBFS.
FAINT_DB = -40.0
# Mastered loudly on purpose, a record has a sample in 10,000 clipped; damage has one in 1,000.
CLIPPED_SHARE = 1e-3
# Of full scale: -60 dB, which is more than converters have had for decades; and -40 dB.
DC_NOTE, DC_WARNING = 1e-3, 1e-2
# MUSDB18's AAC adds up to -32 dB, with a limiter on the mixture to -15 dB; another song to +3 dB.
MIXTURE_NOTE_DB, MIXTURE_WARNING_DB = -20.0, -10.0


def diagnose(entry: Entry, track: Track, measures: TrackMeasures) -> list[Finding]:
    """Find what a person should know of a track's sound.

    Args:
        entry: Where it lies.
        track: The track.
        measures: What was measured.

    Returns:
        Findings, by file and then of the whole.
    """
    findings = []
    for name, file in measures.files.items():
        path = track.mixture if name == MIXTURE else track.stems[name]
        assert path is not None
        where = f"{entry.path}, {name}" if entry.is_stem_file else str(path)
        if file.first_nonfinite is not None:
            findings.append(nan_finding(path, file.first_nonfinite, track.sample_rate))
        findings += _of_file(where, name, file)
    findings += _of_channels(str(entry.path), measures.files)
    findings += _of_peaks(str(entry.path), measures.files)
    damaged = any(file.first_nonfinite is not None for file in measures.files.values())
    if measures.mixture is not None and not damaged:
        findings += _of_mixture(str(entry.path), measures.mixture)
    return findings


def unlike_rates(tracks: Sequence[Track]) -> list[Finding]:
    """Compare the sample rates of tracks.

    Args:
        tracks: The tracks.

    Returns:
        A warning for each track at another rate than most.
    """
    counts = Counter(track.sample_rate for track in tracks)
    usual = counts.most_common(1)[0][0] if counts else 0
    return [
        Finding(
            "warning",
            "unlike-rate",
            str(next(iter(track.stems.values())).parent),
            f"sample rate is {track.sample_rate} Hz, but {counts[usual]} of {len(tracks)} tracks "
            f"have {usual} Hz",
            "training resamples what is not at its rate; make sure that the track's highest "
            "frequencies are not missed, or remove it",
        )
        for track in tracks
        if track.sample_rate != usual
    ]


def duplicates(entries: Sequence[Entry], pairs: Sequence[Pair]) -> list[Finding]:
    """Put pairs of tracks that sound the same into words.

    Args:
        entries: The tracks.
        pairs: Numbers of those that are alike.

    Returns:
        An error for a pair over train and test, a warning for one within a subset.
    """
    findings = []
    for first, second, correlation, shift_seconds in pairs:
        one, other = entries[first], entries[second]
        apart = one.subset != other.subset
        when = f"{abs(shift_seconds):.1f} s {'later' if shift_seconds > 0 else 'earlier'}"
        findings.append(
            Finding(
                "error" if apart else "warning",
                "duplicate",
                str(other.path),
                f"sounds like {one.subset}/{one.name} (correlation {correlation:.2f} of 1"
                f"{f', {when}' if shift_seconds else ''}), another song was expected",
                "remove one of the two from train: a score on a song that was trained on says "
                "nothing of others"
                if apart
                else "listen to both and remove one, lest one train and the other validate",
            )
        )
    return findings


def is_silent(file: FileMeasures) -> bool:
    """Whether a file is silent throughout.

    Args:
        file: Its measures.

    Returns:
        Whether each of its seconds is.
    """
    return file.silent_share == 1


def channel_names(channels: int) -> Sequence[str]:
    """Name channels, in order.

    Args:
        channels: Their number.

    Returns:
        A name for each.
    """
    if channels == 2:
        return ("left", "right")
    return tuple(f"channel {number + 1}" for number in range(channels))


def _of_file(where: str, name: str, file: FileMeasures) -> list[Finding]:
    findings = []
    if is_silent(file):
        level = "no sound in it" if file.rms_db < -120 else f"never above {SILENT_DB:g} dBFS"
        findings.append(
            Finding(
                "warning",
                "silent-stem",
                where,
                f"silent throughout ({level}), a sound was expected",
                "export it again, unless the song has none: then it stays, as training material "
                "for silence; BSS Eval has no score for it",
            )
        )
    elif file.rms_db < FAINT_DB:
        findings.append(
            Finding(
                "note",
                "faint-stem",
                where,
                f"RMS {file.rms_db:.1f} dBFS, {file.silent_share:.0%} of its seconds silent; above "
                f"{FAINT_DB:g} dBFS is usual",
                "check that it was not exported too softly",
            )
        )
    if file.clipped_share:
        findings.append(
            Finding(
                "warning" if file.clipped_share > CLIPPED_SHARE else "note",
                "clipping",
                where,
                f"{100 * file.clipped_share:.2g} % of its samples are clipped (runs of three or "
                f"more at full scale); up to {100 * CLIPPED_SHARE:.2g} % is common",
                "export it again at a lower level" + (" with its stems" * (name == MIXTURE)),
            )
        )
    if abs(file.dc_offset) > DC_NOTE:
        findings.append(
            Finding(
                "warning" if abs(file.dc_offset) > DC_WARNING else "note",
                "dc-offset",
                where,
                f"mean is {file.dc_offset:+.4f} of full scale, less than {DC_NOTE:g} was expected",
                "filter it with a high-pass of 5 to 20 Hz",
            )
        )
    return findings


def _of_channels(where: str, files: dict[str, FileMeasures]) -> list[Finding]:
    equal = [name for name, file in files.items() if file.channels_equal and not is_silent(file)]
    if not equal:
        return []
    return [
        Finding(
            "note",
            "dual-mono",
            where,
            f"the channels are the same in {', '.join(equal)}",
            "nothing, if they were recorded in mono",
        )
    ]


def _of_peaks(where: str, files: dict[str, FileMeasures]) -> list[Finding]:
    over = [f"{name} {file.peak_db:+.1f} dB" for name, file in files.items() if file.peak_db > 0]
    if not over:
        return []
    return [
        Finding(
            "note",
            "over-full-scale",
            where,
            f"peaks beyond full scale: {', '.join(over)}",
            "nothing for training; datamodules.convert to integers would clip them, --subtype "
            "FLOAT keeps them",
        )
    ]


def _of_mixture(where: str, mixture: MixtureMeasures) -> list[Finding]:
    worst = max(mixture.error_db)
    if worst <= MIXTURE_NOTE_DB:
        return []
    severity: Severity = "warning" if worst > MIXTURE_WARNING_DB else "note"
    names = channel_names(len(mixture.error_db))
    errors = ", ".join(
        f"{name} {error:.1f} dB" for name, error in zip(names, mixture.error_db, strict=True)
    )
    finding = (
        f"the mixture is not the sum of the stems: the difference is {errors} of the mixture, "
        f"below {MIXTURE_NOTE_DB:g} dB was expected"
    )
    # A gain explains it where nearly all of the error goes with it.
    if max(mixture.error_after_gain_db) <= min(MIXTURE_NOTE_DB, worst - 10):
        gains = ", ".join(f"{gain:.3f}" for gain in mixture.gain)
        finding += f" (the mixture is the sum times {gains})"
    return [
        Finding(
            severity,
            "mixture-unlike-sum",
            where,
            finding,
            "nothing for training, which sums the stems; scores take the mixture: restore or "
            "remove the track, unless you compare with published scores that have it",
        )
    ]
