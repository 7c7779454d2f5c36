"""The PCM cache: one entry per content, also after kills, on full disks and with two processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.cache import pcm
from datamodules.cache.folder import checksum, decoded_folder, read_entry, stored
from datamodules.cache.pcm import decode, find_decoded
from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files import audio

RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEMLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def rewritten(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded, in order."""
    decoded: list[Path] = []
    rewrite = audio.rewrite

    def recording(path: Path, target: Path, subtype: str) -> None:
        decoded.append(path)
        rewrite(path, target, subtype)

    monkeypatch.setattr(audio, "rewrite", recording)
    return decoded


def write(path: Path, seed: int = 0, samples: int = 2000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-9999, 9999, (samples, 2)).astype(np.int16)
    soundfile.write(path, noise, RATE)
    return path


def assert_decoded(*paths: Path) -> None:
    made = decode(paths, progress=False)
    assert set(made) == set(paths)
    for path in paths:
        expected = soundfile.read(path, dtype="int16")[0]
        assert np.array_equal(soundfile.read(made[path].file(), dtype="int16")[0], expected)


# ------------------------------------------------------------------ content


def test_copied_moved_and_touched_files_are_not_decoded_again(
    tmp_path: Path, rewritten: list[Path]
) -> None:
    path = write(tmp_path / "a.flac")
    assert_decoded(path)
    copy = tmp_path / "copy.flac"
    shutil.copy(path, copy)
    os.utime(path, (1, 1))
    assert_decoded(path, copy)
    moved = path.rename(tmp_path / "moved.flac")
    assert_decoded(moved)
    assert rewritten == [path]
    assert decode([moved], False)[moved] == decode([copy], False)[copy] == find_decoded(moved)


def test_other_content_of_the_same_size_and_time_is_decoded(
    tmp_path: Path, rewritten: list[Path]
) -> None:
    path, other = tmp_path / "a.wav", tmp_path / "b.wav"
    for file, seed in ((path, 1), (other, 2)):
        noise = np.random.default_rng(seed).integers(-9999, 9999, (2000, 2)) / 2**23
        soundfile.write(file, noise, RATE, subtype="PCM_24")
    before = path.stat()
    decode([path], False)
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    entry = decode([path], False)[path]
    assert np.array_equal(soundfile.read(entry.file())[0], soundfile.read(other)[0])
    assert rewritten == [path, path]


def test_a_file_is_hashed_once_per_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.files.state._SETTLED_NS", -(10**18))
    hashes = []
    new_hash = pcm._hash

    def counting() -> object:
        hashes.append(1)
        return new_hash()

    monkeypatch.setattr(pcm, "_hash", counting)
    path = write(tmp_path / "a.flac")
    for _ in range(3):
        assert_decoded(path)
    assert len(hashes) == 1
    os.utime(path, (1, 1))
    assert_decoded(path)
    assert find_decoded(path) is not None
    assert len(hashes) == 2


def test_copies_are_decoded_once(tmp_path: Path, rewritten: list[Path]) -> None:
    paths = [write(tmp_path / str(number) / "a.flac") for number in range(5)]
    assert_decoded(*paths)
    assert len(rewritten) == 1


def test_each_faulty_copy_is_reported(tmp_path: Path) -> None:
    paths = [tmp_path / "a.flac", tmp_path / "b.flac"]
    for path in paths:
        path.write_text("no audio")
    gone = tmp_path / "gone.flac"
    whole = write(tmp_path / "c.flac")
    faults: dict[Path, DataError] = {}
    assert set(decode([*paths, gone, whole], False, faults)) == {whole}
    assert set(faults) == {*paths, gone}
    assert all(str(fault).startswith(f"{path}: ") for path, fault in faults.items())
    with pytest.raises(DataError, match="2 faults"):
        decode([gone, tmp_path / "gone2.flac"], False)
    with pytest.raises(DataError, match="cannot be read"):
        find_decoded(gone)
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be read .Is a directory"):
        find_decoded(tmp_path)


def test_missing_ffmpeg_is_not_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.stem.mp4"
    path.write_bytes(b"anything")
    monkeypatch.setenv("PATH", "")
    faults: dict[Path, DataError] = {}
    with pytest.raises(FFmpegMissingError, match="apt install ffmpeg"):
        decode([path], False, faults)
    assert faults == {}


def test_an_entry_that_cannot_be_renamed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.flac")
    replace = os.replace

    def refusing(source: Path, target: Path) -> None:
        if Path(source).name == "entry":
            raise PermissionError(errno.EPERM, "refused", str(target))
        replace(source, target)

    with monkeypatch.context() as context:
        context.setattr(os, "replace", refusing)
        with pytest.raises(DataError, match="refused"):
            decode([path], False)
    assert find_decoded(path) is None
    assert_decoded(path)


def test_a_file_that_changes_while_it_is_decoded_gets_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.flac")
    rewrite = audio.rewrite

    def changing(path: Path, target: Path, subtype: str) -> None:
        write(path, seed=1, samples=3000)
        rewrite(path, target, subtype)

    with monkeypatch.context() as context:
        context.setattr(audio, "rewrite", changing)
        with pytest.raises(DataError, match=r"a\.flac: was removed, replaced or changed"):
            decode([path], False)
    assert_decoded(path)


# ------------------------------------------------------------------ complete


@pytest.mark.parametrize("damage", ["truncated", "removed", "manifest", "no manifest", "empty"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.flac")
    entry = decode([path], False)[path]
    manifest = entry.folder / "manifest.json"
    if damage == "truncated":
        os.truncate(entry.file(), 500)
    elif damage == "removed":
        entry.file().unlink()
    elif damage == "manifest":
        manifest.write_text('{"files": {"audio": 3}}')
    elif damage == "no manifest":
        manifest.unlink()
    else:
        shutil.rmtree(entry.folder)
        entry.folder.mkdir()
    assert find_decoded(path) is None
    with pytest.warns(UserWarning, match=rf"{entry.folder.name}.*created again from {path}"):
        assert decode([path], False)[path] == entry
    assert_decoded(path)


FLIPS = {
    "first bytes": (0, b"JUNK"),
    "header": (24, (9000).to_bytes(4, "little")),  # the sample rate
    "one bit": (6000, None),
    "zeroed page": (4096, bytes(2048)),
    "last sample": (-2, b"\x11\x22"),
}


@pytest.mark.parametrize("flip", FLIPS)
def test_damaged_samples_are_found_by_the_next_run(
    tmp_path: Path, flip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.flac")
    file = decode([path], False)[path].file()
    before, inode = file.read_bytes(), file.stat().st_ino
    damage(file, *FLIPS[flip])
    assert len(before) == file.stat().st_size
    assert before != file.read_bytes()
    # Bit rot changes no times: a new process knows nothing of the file.
    monkeypatch.setattr(pcm, "_matched", {})
    assert find_decoded(path) is None
    with pytest.warns(UserWarning, match=rf"{file.parent.name}.*created again from {path}"):
        decode([path], False)
    assert file.stat().st_ino != inode
    assert file.read_bytes() == before
    assert_decoded(path)


def damage(file: Path, at: int, content: bytes | None) -> None:
    """Overwrite bytes, or flip a bit, and restore the modification time."""
    times = file.stat()
    whole = bytearray(file.read_bytes())
    content = content or bytes([whole[at] ^ 1])
    at %= len(whole)
    whole[at : at + len(content)] = content
    with file.open("r+b") as handle:
        handle.write(whole)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_damage_within_a_run_is_found_by_ctime(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac")
    file = decode([path], False)[path].file()
    assert find_decoded(path) is not None
    time.sleep(0.02)  # longer than a tick of the kernel's file clock
    damage(file, 6000, None)
    assert find_decoded(path) is None


def test_files_are_compared_once_per_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Path] = []

    def counting(path: Path) -> int:
        compared.append(path)
        return checksum(path)

    path = write(tmp_path / "a.flac")
    entry = decode([path], False)[path]
    monkeypatch.setattr(pcm, "checksum", counting)
    for _ in range(3):
        decode([path], False)
    assert compared == [entry.file()]
    for variable in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.setattr(pcm, "_matched", {})
        with monkeypatch.context() as context:
            context.setenv(variable, "1")  # prepare_data ran in the process with rank 0
            decode([path], False)
    assert compared == [entry.file()]


def test_several_damaged_entries_are_one_line(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.flac", number) for number in range(3)]
    for path in paths:
        os.truncate(decode([path], False)[path].file(), 500)
    with pytest.warns(UserWarning, match="and 2 other entries do not match their") as caught:
        decode(paths, False)
    assert len(caught) == 1
    assert_decoded(*paths)


def test_entry_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def recording_replace(source: Path, target: Path) -> None:
        synced.append(f"rename {Path(source).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    decode([write(tmp_path / "a.flac")], False)
    assert sorted(synced[:2]) == ["audio.wav", "manifest.json"]
    assert synced[2:] == ["entry", "rename entry"]


FORGED: dict[str, str | dict[str, Any]] = {
    "no mapping": "[]",
    "deep": "[" * 100_000,
    "not UTF-8": "\udcff",
    "path outside": {"../../outside": {}},
    "absolute path": {"/outside": {}},
    "dots": {"..": {}},
    "NUL": {"a\0b": {}},
    "text": {"audio": {"samples": "many"}},
    "float": {"audio": {"samples": 1.5}},
    "negative": {"audio": {"samples": -1}},
    "huge": {"audio": {"samples": 10**30}},
    "infinite": {"audio": {"sample_rate": float("inf")}},
    "no rate": {"audio": {"sample_rate": 0}},
    "null": {"audio": {"channels": None}},
    "unknown key": {"audio": {"title": "song"}},
    "list": {"audio": []},
    "checksum": {"audio": {"crc32": "zero"}},
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("signed", [True, False])
def test_forged_manifest(tmp_path: Path, kind: str, signed: bool) -> None:
    """With a checksum of its own, or with the one of the true manifest."""
    path = write(tmp_path / "a.flac")
    entry = decode([path], False)[path]
    write(tmp_path / "outside.wav")
    write(decoded_folder().parent / "outside.wav")
    file = entry.folder / "manifest.json"
    content = json.loads(file.read_text())
    forged = FORGED[kind]
    if isinstance(forged, str):
        file.write_text(forged, errors="surrogateescape")
    else:
        true = content["files"].pop("audio")
        for name, changes in forged.items():
            content["files"][name] = true | changes if isinstance(changes, dict) else changes
        if signed:
            content["crc32"] = zlib.crc32(
                json.dumps({key: content[key] for key in ("source", "files")}).encode()
            )
        file.write_text(json.dumps(content))
    assert stored()
    assert find_decoded(path) is None
    with pytest.warns(UserWarning, match="created again"):
        assert decode([path], False)[path] == entry
    assert_decoded(path)


def run_in_process(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program that can use `decode` and `audio`; its arguments are `paths`."""
    head = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from datamodules.files import audio\nfrom datamodules.cache.pcm import decode\n"
        "paths = [Path(each) for each in sys.argv[1:]]\nrewrite = audio.rewrite\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(pcm.__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_next_start_decodes_what_a_kill_left(tmp_path: Path, rewritten: list[Path]) -> None:
    paths = [write(tmp_path / f"{number}.flac", number) for number in range(4)]
    killed = run_in_process(
        "made = []\n"
        "def deadly(path, target, subtype):\n"
        "    rewrite(path, target, subtype)\n"
        "    made.append(path)\n"
        "    if len(made) == 3:\n"
        "        os.truncate(target, 100)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "audio.rewrite = deadly\n"
        "import datamodules.cache.pcm as cache\n"
        "cache._WORKERS = 1\n"
        "decode(paths, False)\n",
        *paths,
    )
    assert killed.wait(60) == -signal.SIGKILL
    whole = [folder for folder in decoded_folder().glob("[!.]*") if read_entry(folder)]
    assert len(whole) == len(list(decoded_folder().glob("[!.]*"))) == 2
    assert_decoded(*paths)
    assert len(rewritten) == 2, "complete entries are kept"


@pytest.mark.slow
def test_two_processes_decode_each_file_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.flac", number) for number in range(6)]
    log, start = tmp_path / "log", tmp_path / "start"
    program = (
        "*paths, log, start = paths\n"
        "def recording(path, target, subtype):\n"
        "    with log.open('a') as file: file.write(f'{path}\\n')\n"
        "    time.sleep(0.1)\n"
        "    rewrite(path, target, subtype)\n"
        "audio.rewrite = recording\n"
        "(start.parent / str(os.getpid())).touch()\n"
        "while not start.exists(): time.sleep(0.01)\n"
        "made = decode(paths, True)\n"
        "assert len(made) == 6 and all(each.file().is_file() for each in made.values())\n"
    )
    processes = [run_in_process(program, *paths, log, start) for _ in range(2)]
    while not all((tmp_path / str(process.pid)).exists() for process in processes):
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.01)
    start.touch()
    messages = "".join(process.communicate(timeout=60)[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(log.read_text().split()) == sorted(map(str, paths)), "each decoded once"
    assert messages.count("Waiting for another process that decodes into") == 1
    assert messages.count("Decoding 6 files, once, into") == 1
    assert_decoded(*paths)


def test_two_threads_decode_the_same_file_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system that has no locks."""

    def no_locks(file: object, how: int) -> None:
        raise OSError("no locks available")

    path = write(tmp_path / "a.flac")
    both_decoding = threading.Barrier(2)
    rewrite = audio.rewrite

    def together(path: Path, target: Path, subtype: str) -> None:
        both_decoding.wait(30)
        rewrite(path, target, subtype)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(audio, "rewrite", together)
    made: list[object] = []
    threads = [
        threading.Thread(target=lambda: made.append(decode([path], False)[path])) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made == [find_decoded(path)] * 2
    assert_decoded(path)


@pytest.mark.parametrize("start", [0.3, 0.9])
def test_damage_in_the_middle_of_a_file(tmp_path: Path, start: float) -> None:
    path = write(tmp_path / "a.flac", samples=50_000)
    content = bytearray(path.read_bytes())
    at = int(start * len(content))
    content[at : at + 9000] = bytes(9000)
    path.write_bytes(content)
    faults: dict[Path, DataError] = {}
    assert decode([path], False, faults) == {}
    assert str(faults[path]).startswith(f"{path}: ")
    assert "copy or download" in str(faults[path])


# --------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size=4m,{request.param}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted here ({done.stderr.strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("disk", ["ro"], indirect=True)
def test_read_only_disk(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.flac")
    monkeypatch.setenv("STEMLAB_CACHE", str(disk))
    with pytest.raises(DataError, match=rf"{disk}.*Read-only file system.*set STEMLAB_CACHE"):
        decode([path], False)


@pytest.mark.parametrize("disk", ["rw"], indirect=True)
def test_entries_on_a_read_only_disk_are_used(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewritten: list[Path]
) -> None:
    path = write(tmp_path / "a.flac")
    monkeypatch.setenv("STEMLAB_CACHE", str(disk))
    assert_decoded(path)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert_decoded(path)
    assert rewritten == [path]


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["rw", "nr_inodes=6"], indirect=True)
@pytest.mark.parametrize("suffix", ["flac", "stem.mp4"])
def test_disk_that_fills_up_while_decoding(
    disk: Path,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The space checked before is then taken by others, or inodes are lacking."""
    path = tmp_path / f"a.{suffix}"
    if suffix == "flac":
        write(path, samples=2_000_000)
    else:
        import stempeg

        shutil.copy(stempeg.example_stem_path(), path)
    monkeypatch.setenv("STEMLAB_CACHE", str(disk))
    monkeypatch.setattr(shutil, "disk_usage", lying_first(shutil.disk_usage))
    faults: dict[Path, DataError] = {}
    for collected in (None, faults):
        words = rf"{disk}/decoded: .*No space left on device.*set STEMLAB_CACHE"
        with pytest.raises(DataError, match=words):
            decode([path], False, collected)
        monkeypatch.setattr(shutil, "disk_usage", lying_first(shutil.disk_usage))
    assert not faults, "the file is not reported as faulty"
    assert not list(disk.glob("decoded/[!.]*"))
    assert not list(disk.glob("decoded/.*.unfinished"))


def lying_first(disk_usage: object) -> object:
    """Report plenty of space at the first call, the true space later."""
    answers = iter([SimpleNamespace(free=10**12)])
    return lambda path: next(answers, None) or disk_usage(path)  # type: ignore[operator]
