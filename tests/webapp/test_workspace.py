"""Uploads are checked, separated, kept for a while and deleted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from lightning_modules.inference.stem_files import separate_file
from lightning_modules.webapp.rendering import separate_and_draw
from lightning_modules.webapp.workspace import DISK_FULL, Limits, Workspace, public
from tests.helpers.webapp import timeless, tiny, upload, write_song


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with Workspace(Limits(minutes=0.1, megabytes=2, keep_minutes=30)) as workspace:
        yield workspace


def folders(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in workspace.root.iterdir())


def test_song_is_separated_with_two_models(workspace: Workspace, tmp_path: Path) -> None:
    path = write_song(tmp_path / "My Song.wav")
    models = {"a": tiny(0), "b": tiny(1)}
    reports: list[tuple[float, str]] = []
    song = workspace.separate(
        upload(workspace, path), models, lambda part, what: reports.append((part, what))
    )
    assert song.title == "My Song"
    assert [(track.name, track.model) for track in song.tracks] == [
        ("mixture", ""), ("vocals", "a"), ("other", "a"), ("vocals", "b"), ("other", "b"),
    ]  # fmt: skip
    for name, model in models.items():
        separate_file(model, path, tmp_path / name)
        for track in song.stems(name):
            assert timeless(track.path) == timeless(tmp_path / name / f"{track.name}.wav")
    assert np.array_equal(soundfile.read(song.tracks[0].path)[0], soundfile.read(path)[0])
    assert song.samples == soundfile.info(path).frames
    parts = [part for part, _ in reports]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)
    assert {what for part, what in reports if 0 < part < 0.5} == {"Separating with a"}
    assert {what for part, what in reports if part > 0.5} == {"Separating with b"}
    assert workspace.song(song.token) is song
    assert workspace.song("another") is None


def test_unfinished_song_is_not_available(workspace: Workspace, tmp_path: Path) -> None:
    seen = []

    def look(part: float, what: str) -> None:
        token = next(name for name in folders(workspace) if name != "uploads" and name[0] != ".")
        seen.append(workspace.song(token))
        workspace.sweep(time.monotonic() + 1e6)  # must not delete it either

    song = workspace.separate(
        upload(workspace, write_song(tmp_path / "song.wav")), {"a": tiny()}, look
    )
    assert seen
    assert not any(seen)
    assert all(track.path.is_file() for track in song.tracks)


def test_same_file_of_two_users(workspace: Workspace, tmp_path: Path) -> None:
    uploaded = upload(workspace, write_song(tmp_path / "song.wav"))
    first, second = (workspace.separate(uploaded, {"a": tiny()}) for _ in range(2))
    assert first.token != second.token
    uploaded.unlink()
    assert first.source.read_bytes() == second.source.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["m4a", "ogg"])
def test_compressed_songs(workspace: Workspace, tmp_path: Path, suffix: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    write_song(tmp_path / "song.wav")
    path = tmp_path / f"song.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "song.wav", path], check=True)
    song = workspace.separate(upload(workspace, path), {"a": tiny()})
    assert {soundfile.info(track.path).frames for track in song.tracks} == {song.samples}


def test_invalid_uploads_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    text = tmp_path / "text.mp3"
    text.write_text("not audio at all")
    empty = tmp_path / "empty.wav"
    empty.touch()
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, np.zeros((70, 1)), 7)
    cases = {
        text: "text.mp3: is not audio",
        empty: "empty.wav: is empty (0 bytes)",
        slow: "slow.wav: has 1 channels at 7 Hz, expected mono or stereo at 8000 to 192000 Hz",
        write_song(tmp_path / "long.flac", 6.5, 1): "long.flac: is longer than 0.1 minutes",
        write_song(tmp_path / "large.wav", 12): "large.wav: has 2.1 MB, the limit is 2;",
        write_song(tmp_path / "six.wav", 1, channels=6): "six.wav: has 6 channels",
    }
    for path, expected in cases.items():
        with pytest.raises(DataError) as error:
            workspace.separate(upload(workspace, path), {"a": tiny()})
        message = str(error.value)
        assert message.startswith(expected), message
        assert str(workspace.root) not in message
    assert folders(workspace) == ["uploads"], "no file is left"


def test_damaged_song_is_separated_with_a_note(workspace: Workspace, tmp_path: Path) -> None:
    path = write_song(tmp_path / "My Song.flac", 4)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50_000] = bytes(50_000)
    path.write_bytes(content)
    song = workspace.separate(upload(workspace, path), {"a": tiny()})
    assert song.shortfall.startswith("My Song.flac: declares 176400 samples")
    assert str(workspace.root) not in song.shortfall
    assert {soundfile.info(track.path).frames for track in song.tracks} == {song.samples}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("/tmp/a/b.wav: gone", "b.wav: gone"),
        ("'/tmp/a/b.wav' is gone", "'b.wav' is gone"),
        ("cannot open (/srv/models/best.ckpt), /etc/x/y: no", "cannot open (best.ckpt), y: no"),
        ("and/or 44.1 kHz / 48 kHz, 3 m/s/s", "and/or 44.1 kHz / 48 kHz, 3 m/s/s"),
        ("see https://ffmpeg.org/a/b", "see https://ffmpeg.org/a/b"),
    ],
)
def test_messages_have_no_folders_of_the_server(message: str, expected: str) -> None:
    assert public(message) == expected


@pytest.mark.parametrize("place", ["separate", "draw", "library"])
def test_full_disk(
    workspace: Workspace, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an error of a library that does not tell that the disk is full."""

    def fail(*arguments: object, **keywords: object) -> None:
        if place == "library":
            usage = shutil.disk_usage("/")._replace(free=0)
            monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
            raise RuntimeError("System error.")
        raise OSError(errno.ENOSPC, "No space left on device", str(workspace.root / "x"))

    target = "rendering.track_strips" if place == "draw" else "workspace.separate_file"
    monkeypatch.setattr(f"lightning_modules.webapp.{target}", fail)
    path = upload(workspace, write_song(tmp_path / "song.wav"))
    with pytest.raises(DataError) as error:
        separate_and_draw(workspace, str(path), {"a": tiny()}, lambda part, what: None)
    assert str(error.value) == f"song.wav: {DISK_FULL}"
    assert folders(workspace) == ["uploads"]


def test_title_cannot_leave_the_folder_of_an_archive(workspace: Workspace, tmp_path: Path) -> None:
    for name, title in (("...wav", "song"), (". a .wav", "a"), ("a..wav", "a")):
        path = write_song(tmp_path / "plain.wav", 0.1).rename(tmp_path / name)
        song = workspace.separate(upload(workspace, path), {"a": tiny()})
        assert song.title == title


def test_suffix_of_any_length(workspace: Workspace, tmp_path: Path) -> None:
    path = write_song(tmp_path / "a.wav", 0.1).rename(tmp_path / f"a.{'x' * 250}")
    assert workspace.separate(upload(workspace, path), {"a": tiny()}).title == "a"


def test_abandoned_uploads_are_deleted(workspace: Workspace) -> None:
    partial = workspace.uploads / "tmp1234"
    partial.write_bytes(b"RIFF")
    workspace.sweep(time.monotonic() + 50)
    assert partial.is_file()
    workspace.sweep(time.monotonic() + 70)
    assert not partial.exists()


def test_failed_separation_leaves_no_files(workspace: Workspace, tmp_path: Path) -> None:
    def fail(part: float, what: str) -> None:
        if part > 0.5:
            raise OSError("No space left on device")

    with pytest.raises(DataError, match="No space left"):
        workspace.separate(
            upload(workspace, write_song(tmp_path / "song.wav")), {"a": tiny()}, fail
        )
    assert folders(workspace) == ["uploads"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../song.wav", "uploads/../../song.wav", ""])
def test_only_uploads_are_accepted(workspace: Workspace, tmp_path: Path, path: str) -> None:
    write_song(workspace.root / "song.wav")
    write_song(workspace.root.parent / f"{workspace.root.name}-song.wav").unlink()
    for form in (path, workspace.uploads / path, workspace.root / path):
        with pytest.raises(DataError, match="is no longer available"):
            workspace.separate(form, {"a": tiny()})
    (workspace.uploads / "link.wav").symlink_to(workspace.root / "song.wav")
    with pytest.raises(DataError, match="is no longer available"):
        workspace.separate(workspace.uploads / "link.wav", {"a": tiny()})


def test_unused_songs_and_uploads_are_deleted(workspace: Workspace, tmp_path: Path) -> None:
    old_upload = upload(workspace, write_song(tmp_path / "song.wav"), "old")
    song = workspace.separate(old_upload, {"a": tiny()})
    upload(workspace, tmp_path / "song.wav", "new")
    os.utime(old_upload, (time.time() - 1500, time.time() - 1500))
    now = time.monotonic()
    workspace.sweep(now + 29 * 60 - 1500)
    assert old_upload.is_file()
    workspace.sweep(now + 31 * 60 - 1500)
    assert not old_upload.exists()
    assert (workspace.uploads / "new/song.wav").is_file()
    song.used = now
    workspace.sweep(now + 29 * 60)
    assert workspace.song(song.token) is song
    assert song.used > now, "a request counts as use"
    workspace.sweep(song.used + 31 * 60)
    assert workspace.song(song.token) is None
    assert not song.folder.exists()


def test_songs_are_deleted_at_exit(tmp_path: Path) -> None:
    with Workspace(Limits()) as workspace:
        workspace.separate(upload(workspace, write_song(tmp_path / "song.wav")), {"a": tiny()})
        assert workspace.root.stat().st_mode & 0o077 == 0, "other users cannot read them"
    assert not workspace.root.exists()


def test_songs_are_deleted_in_the_background(tmp_path: Path) -> None:
    with Workspace(Limits(keep_minutes=1e-4)) as workspace:
        path = write_song(tmp_path / "song.wav")
        os.utime(path, (time.time() + 1e4,) * 2)  # so that the upload is not deleted before
        moved = workspace.uploads / "song.wav"
        path.replace(moved)
        song = workspace.separate(moved, {"a": tiny()})
        deadline = time.monotonic() + 60
        while song.folder.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_limits_must_be_positive() -> None:
    for name, option in (
        ("minutes", "--max-minutes"),
        ("megabytes", "--max-mb"),
        ("keep_minutes", "--keep-minutes"),
    ):
        for value in (0, -1, float("nan")):
            with pytest.raises(DataError, match=option):
                Limits(**{name: value})
