"""The demo corpus: 18 short songs in MUSDB18's layout, used without a data set.

:mod:`datamodules.demo.songs` composes them, :mod:`datamodules.demo.instruments` and
:mod:`datamodules.demo.voice` synthesise them, and this module mixes them; each seed gives another
corpus, and no recordings are used. Fifteen songs are for training, three of them for validation
(:data:`VALIDATION_TRACKS`), and three for testing. They are kept in the user's cache and verified
by hash at each use.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import oaconvolve
from tqdm import tqdm

from datamodules import command_line
from datamodules.cache.folder import cache_folder
from datamodules.demo.instruments import play_bass, play_chords, play_drums
from datamodules.demo.songs import (
    KITS,
    TEST,
    TRAIN,
    VALIDATION,
    VOICES,
    Plan,
    compose_bass,
    compose_chords,
    compose_drums,
    compose_melody,
)
from datamodules.demo.synthesis import SAMPLE_RATE, Signal, band, place, samples
from datamodules.demo.voice import sing
from datamodules.tracks.layouts import STEMS

SONGS = TRAIN + VALIDATION + TEST
VALIDATION_TRACKS: tuple[str, ...] = tuple(song.name for song in VALIDATION)
VERSION = 1
"""Version of the audio: increase it with any change, so that cached corpora are replaced."""

logger = logging.getLogger(__name__)

# Mixing

_LEVEL_DB = {"vocals": 0.0, "drums": -1.5, "bass": -2.5, "other": -3.0}
_WET_DB = {"vocals": -13.0, "drums": -15.0, "bass": -30.0, "other": -14.0}
_CREST = 4.5  # soft clipping of peaks, in multiples of a stem's RMS
_PEAK = 0.89 * 32767
TAIL_SECONDS = 2.4
"""Length of a song after its final chord's onset."""


def _room(seconds: float, generator: np.random.Generator) -> Signal:
    """Stereo impulse response of a room: decaying noise of unit energy, shape (N, 2)."""
    time = np.arange(samples(seconds * 1.2)) / SAMPLE_RATE
    noise = generator.standard_normal((len(time), 2)) * 10.0 ** (-3.0 * time / seconds)[:, None]
    noise[: samples(0.018)] = 0.0
    response = band(noise, 180.0, 6500.0)
    return np.asarray(response / np.sqrt(np.mean(np.sum(response**2, axis=0))))


def render_track(seed: int, number: int) -> dict[str, npt.NDArray[np.int16]]:
    """Compose, synthesise and mix a song.

    Args:
        seed: Seed of the corpus.
        number: Index into :data:`SONGS`.

    Returns:
        Stems in the order of :data:`STEMS`, int16, shape (T, 2), 44 100 Hz. Their sum fits in 16
        bits.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
    song = SONGS[number]
    plan = Plan(song)
    length = samples(plan.seconds(song.bars * plan.steps) + TAIL_SECONDS)

    lead, second = compose_melody(plan, generator)
    voice = VOICES[song.voice]
    vocals = np.zeros((length, 2))
    place(vocals, sing(lead, voice, length, generator), 0.0)
    place(vocals, 0.3 * sing(second, voice, length, generator), 0.0, -0.7)
    place(vocals, 0.3 * sing(second, voice, length, generator), 0.013, 0.7)
    drums = play_drums(compose_drums(plan, generator), KITS[song.kit], length, generator)
    bass = play_bass(compose_bass(plan, generator), song.bass[1], length, generator)
    other = np.zeros((length, 2))
    side = float(generator.choice([-1.0, 1.0]))
    for part, (instrument, _) in enumerate(song.other):
        pan = side * generator.uniform(0.15, 0.4) * (-1.0) ** part * len(song.other) / 2
        notes = compose_chords(plan, part, generator)
        sound = play_chords(notes, instrument, length, pan, generator)
        other += sound / np.sqrt(np.mean(sound**2)) * (1.0, 0.8)[part]

    room = _room(song.room_seconds, generator)
    fade = np.clip((length - np.arange(length)) / samples(0.6), 0.0, 1.0)[:, None]
    mixed = {}
    for stem, dry in zip(STEMS, (vocals, drums, np.stack([bass, bass], -1), other), strict=True):
        wet = 10 ** (_WET_DB[stem] / 20) * oaconvolve(dry, room, axes=0)[:length]
        sound = (dry + wet) * fade
        sound /= np.sqrt(np.mean(sound**2))
        sound = _CREST * np.tanh(sound / _CREST)
        mixed[stem] = sound * 10 ** ((_LEVEL_DB[stem] + generator.uniform(-1.0, 1.0)) / 20)
    loudest = max(np.abs(sound).max() for sound in (*mixed.values(), sum(mixed.values())))
    scale = _PEAK / loudest
    return {stem: np.rint(sound * scale).astype(np.int16) for stem, sound in mixed.items()}


# The corpus on disk

_STALE_SECONDS = 86_400.0


def track_folder(number: int) -> str:
    """Folder of a song relative to the corpus, such as ``train/Artist - Title``."""
    subset = "train" if number < len(TRAIN + VALIDATION) else "test"
    return f"{subset}/{SONGS[number].name}"


def write_track(seed: int, number: int, folder: Path) -> None:
    """Render a song into a new folder: four stems, and their exact sum as the mixture."""
    stems = render_track(seed, number)
    folder.mkdir(parents=True)
    for name, sound in {"mixture": sum(stems.values()), **stems}.items():
        soundfile.write(folder / f"{name}.wav", sound, SAMPLE_RATE, subtype="PCM_16")


def publish_track(finished: Path, target: Path, discarded: Path) -> None:
    """Move a finished track into the corpus atomically.

    Args:
        finished: Folder of the track.
        target: Its folder in the corpus; a former one is replaced.
        discarded: Where the former one is moved.

    Raises:
        OSError: A move failed, and no other process has published the track.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if target.exists():
            discarded.parent.mkdir(parents=True, exist_ok=True)
            os.replace(target, discarded)
        os.replace(finished, target)
    except OSError as error:
        # Another process published the same track between the two moves.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or not target.exists():
            raise


def _hashes(root: Path, number: int) -> dict[str, str]:
    """SHA-256 of the existing files of a song, by their path in the corpus."""
    files = [f"{track_folder(number)}/{name}.wav" for name in ("mixture", *STEMS)]
    return {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in files
        if (root / name).is_file()
    }


def _read_manifest(root: Path, seed: int) -> dict[str, str]:
    """Recorded hashes; empty if they are missing, damaged, or of another version or seed."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads((root / "manifest.json").read_text())
        if (manifest["version"], manifest["seed"]) == (VERSION, seed):
            return dict(manifest["sha256"])
    return {}


def default_root(seed: int = 0) -> Path:
    """Folder of the corpus in the user's cache."""
    return cache_folder() / (f"demo-v{VERSION}" + (f"-seed{seed}" if seed else ""))


def _exit_with_parent() -> None:
    """End a worker when its parent is killed; it would wait for work forever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def demo_corpus(
    root: Path | None = None, seed: int = 0, numbers: Sequence[int] = range(len(SONGS))
) -> Path:
    """Render missing and damaged tracks of the demo corpus.

    Args:
        root: Its folder; by default :func:`default_root`.
        seed: Seed of the notes; the songs' styles are the same for all seeds.
        numbers: Indices into :data:`SONGS` of the requested tracks.

    Returns:
        The folder, in the layout of MUSDB18-HQ.
    """
    setting = "STEMLAB_CACHE" if root is None else "ROOT"
    root = default_root(seed) if root is None else root
    recorded = _read_manifest(root, seed)
    with ThreadPoolExecutor() as threads:
        found = dict(zip(numbers, threads.map(lambda n: _hashes(root, n), numbers), strict=True))
    wanted = []
    for number in numbers:
        prefix = track_folder(number) + "/"
        expected = {name: value for name, value in recorded.items() if name.startswith(prefix)}
        if len(expected) <= len(STEMS) or found[number] != expected:
            wanted.append(number)
            if expected:
                logger.warning("%s is missing or damaged: rendering it again", root / prefix)
    if not wanted:
        return root
    command_line.check_folder(root, setting)
    root.mkdir(parents=True, exist_ok=True)
    workers = min(4, os.cpu_count() or 1, len(wanted))
    # Beside the corpus, on the same file system: moves are atomic.
    prefix = f".{root.name}-"
    for left in root.resolve().parent.iterdir():  # of killed runs
        with suppress(FileNotFoundError):  # another process may delete them, too
            if left.name.startswith(prefix) and time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(dir=root.resolve().parent, prefix=prefix) as folder,
        ProcessPoolExecutor(workers, get_context("spawn"), _exit_with_parent) as pool,
    ):
        staging = Path(folder)
        jobs = {pool.submit(write_track, seed, n, staging / track_folder(n)): n for n in wanted}
        try:
            finished = as_completed(jobs)
            for job in tqdm(finished, "rendering the demo corpus", len(jobs), unit="track"):
                job.result()
                track = track_folder(jobs[job])
                recorded |= _hashes(staging, jobs[job])
                publish_track(staging / track, root / track, staging / "discarded" / track)
                hashes = dict(sorted(recorded.items()))
                manifest = {"version": VERSION, "seed": seed, "sha256": hashes}
                (staging / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
                os.replace(staging / "manifest.json", root / "manifest.json")
        except BaseException:  # such as Ctrl-C: do not render the remaining tracks
            pool.shutdown(cancel_futures=True)
            raise
    return root
