"""Conversion to WAV in the layout of MUSDB18-HQ."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from datamodules.convert import convert, main
from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import STEMS
from tests.helpers.tracks import write_dsd100, write_folder, write_noise, write_track

NAMES = (*STEMS, "mixture")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def samples_of(folder: Path, names: Sequence[str] = NAMES) -> np.ndarray:
    return np.stack([soundfile.read(folder / f"{name}.wav", dtype="int32")[0] for name in names])


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_samples_are_unchanged(tmp_path: Path, out: Path, suffix: str) -> None:
    root = tmp_path / "root"
    write_track(root / "train" / "A", seconds=2, suffix=suffix)
    full = np.array([[32767, -32768], [0, -32767]] * 50_000, np.int16)
    for name in NAMES:
        soundfile.write(root / "train" / "A" / f"{name}.{suffix}", full, 44100, subtype="PCM_16")
    (done,) = convert(root, out)
    assert (done.skipped, done.clipped, done.samples) == (False, {}, 5 * full.size)
    for name in NAMES:
        path = out / "train" / "A" / f"{name}.wav"
        assert soundfile.info(path).subtype == "PCM_16"
        np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], full)


@pytest.mark.slow
def test_musdb_reads_the_result(tmp_path: Path, out: Path) -> None:
    import musdb

    convert(write_dsd100(tmp_path / "DSD100"), out)
    theirs = musdb.DB(root=str(out), is_wav=True)
    assert [(track.subset, track.name) for track in theirs] == [
        ("train", "051 - A"),
        ("train", "052 - B"),
        ("test", "C"),
    ]
    source = tmp_path / "DSD100" / "Sources" / "Test" / "C" / "bass.wav"
    np.testing.assert_array_equal(theirs[2].targets["bass"].audio, soundfile.read(source)[0])
    assert len(theirs[0].sources) == 4
    assert theirs[0].audio.shape == (44100, 2)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_integers_are_rounded_and_clipped(
    tmp_path: Path, out: Path, subtype: str, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    folder = write_folder(root / "train" / "A")
    step = 2.0 ** (1 - bits)
    values = np.array([0, 1, 1.4, -1.6, 2 ** (bits - 2)] + [0] * 3) * step
    values[5:] = [1.5, -1.5, 1.0]
    for name in NAMES:
        soundfile.write(folder / f"{name}.wav", np.tile(values, (2, 1)).T, 8000, subtype="FLOAT")
    assert main([str(root), str(out), "--subtype", subtype]) == 0
    found = samples_of(out / "train" / "A")[1, :, 0] >> (32 - bits)
    top = 2 ** (bits - 1)
    assert found.tolist() == [0, 1, 1, -2, 2 ** (bits - 2), top - 1, -top, top - 1]
    shown = capsys.readouterr().out
    # Two values beyond full scale in two channels; 1.0 is one step above the largest integer.
    assert "clipped in train/A: vocals 4, drums 4, bass 4, other 4, mixture 4" in shown
    assert "20 samples (0.25 of all)" in shown
    assert "--subtype FLOAT" in shown


def test_float_samples_are_unchanged(tmp_path: Path, out: Path) -> None:
    folder = write_folder(tmp_path / "root" / "train" / "A")
    loud = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32)
    soundfile.write(folder / "bass.wav", loud, 8000, subtype="FLOAT")
    (done,) = convert(tmp_path / "root", out, subtype="FLOAT")
    assert not done.clipped
    found, _ = soundfile.read(out / "train" / "A" / "bass.wav", dtype="float32")
    np.testing.assert_array_equal(found, loud)


def test_missing_mixture_is_the_sum_missing_stem_is_silence(tmp_path: Path, out: Path) -> None:
    write_folder(tmp_path / "root" / "A", ("vocals", "bass"), suffix="flac")
    with pytest.raises(DataError, match="missing_as_silence"):
        convert(tmp_path / "root", out)
    convert(tmp_path / "root", out, missing_as_silence=True)
    audio = samples_of(out / "train" / "A")
    assert not audio[[1, 3]].any()
    np.testing.assert_array_equal(audio[:4].sum(0), audio[4])
    assert len(index_tracks(out, "train")) == 1


@pytest.mark.slow
def test_stem_mp4_is_decoded_as_by_the_index(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stempeg

    root = tmp_path / "root"
    (root / "test").mkdir(parents=True)
    shutil.copy(stempeg.example_stem_path(), root / "test" / "A - B.stem.mp4")
    convert(root, out, subtype="FLOAT")
    assert not (tmp_path / "cache" / "decoded").exists()
    (theirs,), (ours,) = index_tracks(root, "test", progress=False), index_tracks(out, "test")
    for name in NAMES:
        np.testing.assert_array_equal(ours.read(name), theirs.read(name))
    assert {path.name for path in out.iterdir()} == {"test", ".convert.lock"}
    monkeypatch.setenv("PATH", "")  # files in the cache are not decoded again
    again = tmp_path / "again"
    convert(root, again, subtype="FLOAT")
    for name in NAMES:
        file = Path("test", "A - B", f"{name}.wav")
        np.testing.assert_array_equal(
            *(soundfile.read(folder / file)[0] for folder in (again, out))
        )


# -------------------------------------------------------------------- resume


def test_complete_tracks_are_skipped_and_others_written_again(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for name in "ABCD":
        write_folder(root / name)
    command = [str(root), str(out)]
    assert main(command) == 0
    assert "4 tracks written" in capsys.readouterr().out
    before = {name: (out / "train" / name).stat().st_ino for name in "ABCD"}

    truncated = out / "train" / "B" / "bass.wav"
    truncated.write_bytes(truncated.read_bytes()[:-10])
    (out / "train" / "C" / "mixture.wav").unlink()
    os.utime(root / "D" / "vocals.wav")  # newer than the converted file
    (out / ".killed.unfinished").mkdir()
    assert main(command) == 0
    assert "3 tracks written" in capsys.readouterr().out
    after = {name: (out / "train" / name).stat().st_ino for name in "ABCD"}
    assert after["A"] == before["A"]
    np.testing.assert_array_equal(samples_of(out / "train" / "B"), samples_of(out / "train" / "A"))
    assert sorted(path.name for path in out.iterdir()) == [".convert.lock", "train"]
    assert sorted(path.name for path in (out / "train").iterdir()) == list("ABCD")

    assert main([*command, "--subtype", "PCM_24"]) == 0
    assert "4 tracks written" in capsys.readouterr().out
    (out / ".killed.unfinished").mkdir()
    assert main([*command, "--subtype", "PCM_24"]) == 0
    assert "0 tracks written" in capsys.readouterr().out
    assert not (out / ".killed.unfinished").exists()


def test_letter_case_valid_and_audio_that_is_not_converted(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_track(root / "train/A", seconds=0.5)
    write_track(root / "Val/V", seconds=0.5)
    mixture = root / "train/A/mixture.wav"
    shutil.copy(root / "train/A/bass.wav", mixture)
    mixture.rename(mixture.with_name("Mixture.WAV"))
    for place in ("train/A/guitar.wav", "dev/X/bass.wav", "train/__MACOSX/bass.wav"):
        write_noise(root / place, 0)
    assert main([str(root), str(out)]) == 0
    np.testing.assert_array_equal(*samples_of(out / "train/A", ("mixture", "bass")))
    assert (out / "valid/V/bass.wav").is_file()
    assert [path.name for path in (out / "train").iterdir()] == ["A"]
    told = capsys.readouterr().err
    assert f"note: {root}/dev: holds audio that is not read, such as X/bass.wav" in told
    assert f"note: {root}/train/A: audio that is not read: guitar.wav" in told


def test_a_faulty_track_is_left_out_and_the_others_are_written(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for name in "ABC":
        write_folder(root / name)
    samples = np.zeros((4000, 2), np.float32)
    samples[3000] = np.nan
    soundfile.write(root / "B" / "bass.wav", samples, 8000, subtype="FLOAT")
    (root / "C" / "drums.wav").write_text("no audio")
    assert main([str(root), str(out)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, "all faulty files are named"
    assert errors[0].startswith(f"error: {root / 'B' / 'bass.wav'}: holds NaN")
    assert errors[1].startswith(f"error: {root / 'C' / 'drums.wav'}: is not audio")
    assert [path.name for path in (out / "train").iterdir()] == ["A"]
    shutil.rmtree(root / "A")
    shutil.rmtree(out)
    assert main([str(root), str(out)]) == 2, "nothing could be written"


def test_unknown_files_are_not_replaced(tmp_path: Path, out: Path) -> None:
    write_folder(tmp_path / "root" / "A")
    write_noise(out / "train" / "A" / "notes.wav", 0)
    with pytest.raises(DataError, match=r"did not write \(notes\.wav\); move"):
        convert(tmp_path / "root", out)
    assert (out / "train" / "A" / "notes.wav").is_file()


# -------------------------------------------------------------------- errors


def test_output_that_overlaps_the_data_set_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data" / "root"
    write_folder(root / "train" / "A")
    link = tmp_path / "link"
    link.symlink_to(root)
    by_subset = tmp_path / "by subset"
    by_subset.mkdir()
    (by_subset / "train").symlink_to(root / "train")
    before = sorted(root.rglob("*"))
    for target in (root, root / "wav", root / "train", root.parent, link, by_subset):
        with pytest.raises(DataError, match="overlaps the data set"):
            convert(root, target)
    with pytest.raises(DataError, match="overlaps the data set"):
        convert(by_subset, root)
    assert sorted(root.rglob("*")) == before


def test_one_conversion_at_a_time(tmp_path: Path, out: Path) -> None:
    write_folder(tmp_path / "root" / "A")
    out.mkdir()
    busy = pytest.raises(DataError, match="another conversion is writing to this folder")
    with FileLock(out / ".convert.lock"), busy:
        convert(tmp_path / "root", out)
    assert len(convert(tmp_path / "root", out)) == 1


def test_full_disk_is_reported(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    for name in "AB":
        write_folder(root / name)
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        with pytest.raises(
            DataError, match=rf"written \(No space .* disk {disk}\);.* tracks are kept"
        ):
            convert(root, disk, workers=1)
        assert list(disk.glob(".*.unfinished")) == []
        assert len(list((disk / "train").iterdir())) == 1
        assert len(index_tracks(disk, "train")) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    write_folder(tmp_path / "root" / "A")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"file/out: could not be written \(Not a directory"):
        convert(tmp_path / "root", tmp_path / "file" / "out")


def test_reason_of_a_failed_writing_is_told(tmp_path: Path) -> None:
    for name in "AB":
        write_folder(tmp_path / "root" / name)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, former[1]))
    try:
        with pytest.raises(DataError, match=r"^[^\n]*/A: .* \(File too large;.*`ulimit -f`"):
            convert(tmp_path / "root", tmp_path / "out", workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_truncated_file_is_reported(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "root" / "A")
    whole = audio.blocks

    def cut_short(path: Path, block_samples: int) -> Iterator[audio.Audio]:
        for block in whole(path, block_samples):
            yield block[:, :-7] if path.name == "bass.wav" else block

    monkeypatch.setattr(audio, "blocks", cut_short)
    with pytest.raises(DataError, match=r"bass\.wav: damaged: its header declares"):
        convert(tmp_path / "root", out)


def test_faulty_arguments(tmp_path: Path, out: Path) -> None:
    write_folder(tmp_path / "root" / "A")
    with pytest.raises(DataError, match="does not exist"):
        convert(tmp_path / "nothing", out)
    with pytest.raises(DataError, match="PCM_16, PCM_24, FLOAT"):
        convert(tmp_path / "root", out, subtype="MP3")
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_real_songs(out: Path, tmp_path: Path) -> None:
    source = Path(os.environ["STEMLAB_TEST_DATA"]) / "music"
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "test").symlink_to(source / "test")
    (done,) = convert(tmp_path / "root", out)
    assert not done.clipped
    folder = out / "test" / done.name
    found = samples_of(folder)
    assert found.shape[1:] == (3307500, 2)
    np.testing.assert_array_equal(found[:4].sum(0), found[4])
    theirs = audio.read(source / "test" / done.name / "vocals.flac")
    np.testing.assert_array_equal(audio.read(folder / "vocals.wav"), theirs)
