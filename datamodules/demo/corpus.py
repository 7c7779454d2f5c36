"""The demo corpus: 18 short songs in MUSDB18's layout, used without a data set, and any more.

:mod:`datamodules.demo.styles` draws the style of a song, :mod:`datamodules.demo.songs` composes its
parts, :mod:`datamodules.demo.drums`, :mod:`datamodules.demo.instruments` and
:mod:`datamodules.demo.voice` synthesise them, and :mod:`datamodules.demo.mix` mixes them. Seed and
number of a song determine all of it; no recordings are used. Of the first 18 songs fifteen are for
training, three of them for validation (:data:`VALIDATION_TRACKS`), and three for testing; all
further ones are for training. They are kept in the user's cache and verified by hash at each use.
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

import soundfile

from datamodules import command_line
from datamodules.cache.folder import cache_folder
from datamodules.demo.mix import render_track
from datamodules.demo.synthesis import SAMPLE_RATE
from datamodules.errors import DataError
from datamodules.files.writing import check_room
from datamodules.progress import Bar
from datamodules.tracks.layouts import STEMS

_TRAIN = (
    "Paper Lanterns - Northbound Tram",
    "Ida Quist - Salt on the Window",
    "The Broken Metronomes - Overtime",
    "Kestrel Avenue - Glass Parade",
    "Moss and Marrow - Low Tide",
    "Ravi Holm - Sunday Engine",
    "Velvet Turnstile - Third Platform",
    "Oona Hart - Borrowed Weather",
    "Concrete Orchard - Ninety Floors",
    "Juniper Static - Wavelength",
    "The Slow Couriers - Letters Home",
    "Palma Negra - Calle del Faro",
)
VALIDATION_TRACKS: tuple[str, ...] = (
    "Tin Harbour - Signal Fires",
    "Mira Solano - Half Awake",
    "Copper Ballroom - Last Waltz in Lund",
)
"""Songs for validation; they are part of the training subset."""
TEST_TRACKS = (
    "Arctic Picnic - Thaw",
    "Delia Frost - Nothing but Neon",
    "The Paper Engineers - Fold Line",
)
"""Songs for testing."""
SONGS = (*_TRAIN, *VALIDATION_TRACKS, *TEST_TRACKS)
"""Names of the first songs by number."""
VERSION = 2
"""Version of the audio: increase it with any change, so that cached corpora are replaced."""
_TRACK_BYTES = 24_000_000  # about 25 s of five files

_STALE_SECONDS = 86_400.0

logger = logging.getLogger(__name__)


def track_folder(number: int) -> str:
    """Folder of a song relative to the corpus, such as ``train/Artist - Title``."""
    name = SONGS[number] if number < len(SONGS) else f"Stemlab - Song {number + 1:05d}"
    return f"{'test' if name in TEST_TRACKS else 'train'}/{name}"


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
    """Recorded hashes; empty if they are missing or damaged.

    Raises:
        DataError: The folder holds a corpus of another version or seed.
    """
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        found, recorded = (manifest["version"], manifest["seed"]), dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if found != (VERSION, seed):
        raise DataError(
            f"{root}: holds a demo corpus of version {found[0]} and seed {found[1]}, expected "
            f"version {VERSION} and seed {seed}; delete it, or give another folder"
        )
    return recorded


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
        seed: Seed of the songs; each seed gives others.
        numbers: Numbers of the requested songs; those below 18 are :data:`SONGS`.

    Returns:
        The folder, in the layout of MUSDB18-HQ.

    Raises:
        DataError: There is not enough space, or the folder holds a corpus of another seed.
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
    check_room(root, _TRACK_BYTES * len(wanted), f"{len(wanted)} songs need")
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
            for job in Bar(finished, "rendering the demo corpus", len(jobs), unit="track"):
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
