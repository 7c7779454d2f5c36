"""The index of tracks: same data as musdb, and errors before training."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from datamodules.cache.folder import cache_folder
from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files import audio
from datamodules.tracks import index
from datamodules.tracks.index import Track, index_tracks
from datamodules.tracks.layouts import STEMS
from datamodules.tracks.splits import MUSDB_VALIDATION_TRACKS, split_validation

RATE = 8000
SAMPLES = 2000
FILES = (*STEMS, "mixture")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEMLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="session")
def example() -> Path:
    """The six-second MUSDB18 excerpt that comes with stempeg."""
    import stempeg

    return Path(stempeg.example_stem_path())


@pytest.fixture(scope="session")
def example_stems(example: Path) -> audio.Audio:
    """What stempeg reads from it, shape (5, C, T): mixture, drums, bass, other, vocals."""
    import stempeg

    stems, _ = stempeg.read_stems(str(example))
    result: audio.Audio = stems.astype(np.float32).transpose(0, 2, 1)
    return result


def write_stem(path: Path, seed: int = 0, **changes: int) -> Path:
    """Write 16-bit noise; ``changes`` replace rate, samples or channels."""
    form = {"rate": RATE, "samples": SAMPLES, "channels": 2} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-6000, 6000, (form["samples"], form["channels"]))
    soundfile.write(path, noise.astype(np.int16), form["rate"], subtype="PCM_16")
    return path


def write_track(folder: Path, suffix: str = "wav", seed: int = 0, **changes: int) -> Path:
    for number, stem in enumerate(FILES):
        write_stem(folder / f"{stem}.{suffix}", seed + number, **changes)
    return folder


def write_float(path: Path, waveform: audio.Audio, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, waveform.T, RATE, subtype=subtype)
    return path


def copy_example(example: Path, root: Path, name: str = "A - B", subset: str = "train") -> Path:
    path = root / subset / f"{name}.stem.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(example, path)
    return path


def fault_of(root: Path, subset: str = "train") -> str:
    """Error message of indexing the root."""
    with pytest.raises(DataError) as fault:
        index_tracks(root, subset, progress=False)
    return str(fault.value)


def assert_in(message: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in message


# ---------------------------------------------------------------------- read


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_reads_tracks_in_parts(root: Path, suffix: str) -> None:
    write_track(root / "train" / "B", suffix)
    folder = write_track(root / "train" / "A", suffix, seed=10)
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "notes.txt").touch()
    (folder / ".DS_Store").touch()
    first, second = index_tracks(root, "train")
    assert (first.name, second.name) == ("A", "B")
    assert (first.subset, first.samples, first.sample_rate, first.channels) == (
        *("train", SAMPLES, RATE, 2),
    )
    assert first.seconds == SAMPLES / RATE
    files = {stem: folder / f"{stem}.{suffix}" for stem in FILES}
    assert dict(first.stems) == {stem: files[stem] for stem in STEMS}
    assert first.mixture == files["mixture"]
    whole = {stem: soundfile.read(path, dtype="float32")[0].T for stem, path in files.items()}
    np.testing.assert_array_equal(first.read("bass"), whole["bass"])
    np.testing.assert_array_equal(first.read("bass", 100, 50), whole["bass"][:, 100:150])
    assert first.read("bass", SAMPLES - 10, 50).shape == (2, 10)
    np.testing.assert_array_equal(
        first.read_stems(("other", "vocals"), 7, 20),
        np.stack([whole["other"], whole["vocals"]])[..., 7:27],
    )
    np.testing.assert_array_equal(first.read_mixture(3, 5), whole["mixture"][:, 3:8])
    np.testing.assert_array_equal(first.read("mixture"), whole["mixture"])
    assert pickle.loads(pickle.dumps(first)) == first


def test_missing_mixture_is_the_sum_of_the_stems(root: Path) -> None:
    folder = write_track(root / "train" / "A")
    (folder / "mixture.wav").unlink()
    (track,) = index_tracks(root, "train")
    assert track.mixture is None
    np.testing.assert_array_equal(track.read_mixture(9, 30), track.read_stems(STEMS, 9, 30).sum(0))
    np.testing.assert_array_equal(track.read("mixture"), track.read_stems(STEMS).sum(0))


def test_remedy_for_stems_of_other_formats(root: Path) -> None:
    folder = write_track(root / "train" / "A")
    (folder / "bass.wav").rename(folder / "Bass.MP3")
    with pytest.raises(
        DataError, match=r"no bass\.wav .*found: Bass.MP3.*datamodules\.convert ROOT"
    ):
        index_tracks(root, "train")


def test_pipe_is_not_waited_for(root: Path) -> None:
    folder = write_track(root / "train" / "A")
    (folder / "bass.wav").unlink()
    os.mkfifo(folder / "bass.wav")
    with pytest.raises(DataError, match=r"bass\.wav: is a pipe or device, expected a file"):
        index_tracks(root, "train")


def test_tracks_of_many_channels_and_other_stems(root: Path) -> None:
    write_track(root / "train" / "A", channels=6)
    (root / "train" / "A" / "bass.wav").unlink()
    (track,) = index_tracks(root, "train", stems=("drums", "vocals"))
    assert track.read_stems(("vocals",)).shape == (1, 6, SAMPLES)
    assert tuple(track.stems) == ("drums", "vocals")


# --------------------------------------------------------------------- musdb


@pytest.mark.slow
def test_wav_root_equals_musdb(root: Path) -> None:
    import musdb

    for number, name in enumerate(("B - Title", "A - Title")):
        write_track(root / "train" / name, seed=7 * number)
    (root / "test").mkdir()
    (root / "test" / "linked").symlink_to(root / "train" / "A - Title")
    theirs = musdb.DB(root=str(root), is_wav=True)
    ours = [*index_tracks(root, "train"), *index_tracks(root, "test")]
    assert [track.name for track in theirs] == [track.name for track in ours]
    for their, our in zip(theirs, ours, strict=True):
        assert (their.subset, their.rate) == (our.subset, our.sample_rate)
        for stem in STEMS:
            np.testing.assert_array_equal(their.targets[stem].audio.T, our.read(stem))
        np.testing.assert_array_equal(their.audio.T, our.read_mixture())
    their.chunk_start, their.chunk_duration = 0.125, 0.05
    part = our.read("drums", RATE // 8, RATE // 20)
    np.testing.assert_array_equal(their.sources["drums"].audio.T, part)


@pytest.mark.slow
def test_stem_mp4_root_equals_musdb(root: Path, example: Path) -> None:
    """The preview that ``musdb.DB(download=True)`` unpacks has the same layout."""
    import musdb

    copy_example(example, root, "The Easton Ellises - Falcon 69", "train")
    copy_example(example, root, "Other - Song", "test")
    for subset in ("train", "test"):
        (their,) = musdb.DB(root=str(root), subsets=subset)
        (our,) = index_tracks(root, subset, progress=False)
        assert (their.name, their.subset, their.rate) == (our.name, our.subset, our.sample_rate)
        for stem in STEMS:
            # musdb decodes to 16 bits: rounded and clipped.
            clipped = our.read(stem).clip(-1, 1 - 2**-15)
            assert np.abs(their.targets[stem].audio.T - clipped).max() <= 2**-16 + 1e-7


def test_validation_tracks_equal_musdb() -> None:
    import musdb
    import yaml

    configuration = Path(musdb.__file__).parent / "configs" / "mus.yaml"
    official = yaml.safe_load(configuration.read_text())["validation_tracks"]
    assert tuple(official) == MUSDB_VALIDATION_TRACKS


# ------------------------------------------------------------------ stem.mp4


@pytest.mark.slow
def test_stem_mp4_is_decoded_as_by_stempeg(
    root: Path,
    example: Path,
    example_stems: audio.Audio,
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = copy_example(example, root)
    write_track(root / "train" / "C", rate=44100)
    track, folder_track = index_tracks(root, "train")
    assert "Decoding 1 file," in capfd.readouterr().err
    assert (track.name, folder_track.name) == ("A - B", "C")
    assert (track.samples, track.sample_rate, track.channels) == (268288, 44100, 2)
    for number, stem in enumerate(("mixture", "drums", "bass", "other", "vocals")):
        np.testing.assert_array_equal(track.read(stem), example_stems[number])
        np.testing.assert_array_equal(
            track.read(stem, 100_001, 777), example_stems[number, :, 100_001:100_778]
        )
    (decoded,) = (cache / "decoded").glob("[!.]*")
    assert track.stems["bass"] == decoded / "bass.wav"
    assert soundfile.info(decoded / "bass.wav").subtype == "FLOAT"

    # Decoded once, and again after its content has changed.
    os.utime(path, (1, 1))
    assert index_tracks(root, "train")[0].stems == track.stems
    assert "Decoding" not in capfd.readouterr().err
    with path.open("ab") as file:  # a box of MP4 that is free space
        file.write(b"\0\0\0\x08free")
    assert index_tracks(root, "train")[0].stems != track.stems
    assert "Decoding" in capfd.readouterr().err


def test_decoded_tracks_need_no_ffmpeg(
    root: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_example(example, root)
    (track,) = index_tracks(root, "train", progress=False)
    monkeypatch.setenv("PATH", "")
    assert index_tracks(root, "train", progress=False) == [track]


def test_a_folder_replaces_a_stem_mp4_of_the_same_name(root: Path, example: Path) -> None:
    copy_example(example, root, "A")
    write_track(root / "train" / "A")
    (track,) = index_tracks(root, "train", progress=False)
    assert track.samples == SAMPLES


def test_stem_mp4_without_ffmpeg(
    root: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_example(example, root)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FFmpegMissingError) as fault:
        index_tracks(root, "train")
    assert_in(str(fault.value), path, "needs ffmpeg and ffprobe", "apt install ffmpeg")


def test_wav_root_needs_neither_ffmpeg_nor_torch(root: Path, tmp_path: Path) -> None:
    write_track(root / "train" / "A")
    write_float(root / "train" / "A" / "bass.wav", np.zeros((2, SAMPLES), np.float32))
    program = (
        "import sys; from datamodules.tracks.index import index_tracks\n"
        "(track,) = index_tracks(sys.argv[1], 'train')\n"
        "print(track.read_stems(('vocals', 'bass'), 10, 100).shape, track.read_mixture().shape)\n"
        "heavy = {'torch', 'pytorch_lightning', 'stempeg', 'musdb', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {
        "PATH": str(empty),
        "PYTHONPATH": str(Path(index.__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"(2, 2, 100) (2, {SAMPLES})"


def test_faulty_stem_mp4_files(root: Path, example: Path, cache: Path) -> None:
    whole = copy_example(example, root, "whole")
    empty = copy_example(example, root, "empty")
    empty.write_bytes(b"")
    text = copy_example(example, root, "text")
    text.write_text("no audio " * 100)
    four = root / "train" / "four streams.stem.mp4"
    maps = [option for number in range(4) for option in ("-map", f"0:a:{number}")]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(example), *maps, "-c", "copy"]
    subprocess.run([*command, str(four)], check=True)
    dangling = root / "train" / "dangling.stem.mp4"
    message = fault_of_each(root)
    assert_in(message[four], "4 audio streams", "expected 5", "mixture, drums", "replace")
    assert_in(message[empty], "is empty (0 bytes)", "expected an audio file", "download")
    assert_in(message[text], "is not audio", "check that it is an audio file")
    assert whole not in message
    assert not list((cache / "decoded").glob("[!.]*")), "errors are found before decoding"
    dangling.symlink_to(root / "nowhere")
    assert_in(fault_of(root), dangling, "cannot be read", "restore or remove it")


def fault_of_each(root: Path) -> dict[Path, str]:
    lines = fault_of(root).splitlines()[1:]
    return {Path(line.strip().partition(": ")[0]): line for line in lines}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_stem_mp4_with_a_valid_header(
    root: Path, example: Path, cache: Path, share: float
) -> None:
    """With its table at the beginning ffmpeg decodes it without an error."""
    path = root / "train" / "A.stem.mp4"
    path.parent.mkdir(parents=True)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(example), "-map", "0:a", "-c", "copy"]
    subprocess.run([*command, "-movflags", "+faststart", str(path)], check=True)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_in(fault_of(root), path, "declares 268288 samples", "truncated", "download it again")
    assert not list((cache / "decoded").glob("[!.]*")), "no partial entry is left"
    assert not list((cache / "decoded").glob(".partial-*"))


def test_leftovers_of_killed_processes_are_deleted(root: Path, example: Path, cache: Path) -> None:
    copy_example(example, root)
    (cache / "decoded/.killed.unfinished/entry").mkdir(parents=True)
    index_tracks(root, "train", progress=False)
    assert list((cache / "decoded").glob(".*.unfinished")) == []


def test_too_little_disk_space_for_decoding(
    root: Path, example: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_example(example, root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert_in(fault_of(root), cache, "0.0 GB are free", "set STEMLAB_CACHE")


def test_cache_that_cannot_be_written(root: Path, example: Path, cache: Path) -> None:
    copy_example(example, root)
    cache.write_text("a file where the folder should be")
    assert_in(fault_of(root), cache, "cannot be written", "set STEMLAB_CACHE")


@pytest.mark.slow
def test_damaged_entry_is_made_again(root: Path, example: Path, cache: Path) -> None:
    path = copy_example(example, root)
    (track,) = index_tracks(root, "train", progress=False)
    bass = track.read("bass")
    file = track.stems["bass"]
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=rf"{file.parent.name}.*manifest.*{path.name}"):
        (again,) = index_tracks(root, "train", progress=False)
    np.testing.assert_array_equal(again.read("bass"), bass)
    with pytest.raises(DataError, match="was removed, replaced or changed"):
        track.read("bass")


def test_cache_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("STEMLAB_CACHE")
    assert cache_folder() == Path("/b/stemlab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "stemlab"


# -------------------------------------------------------------------- faults


def test_root_missing(root: Path) -> None:
    assert_in(fault_of(root), root, "does not exist", "expected {train,test}/<track>", "check")
    root.touch()
    assert_in(fault_of(root), root, "is not a folder")


def test_root_without_the_subset(root: Path) -> None:
    write_track(root / "train" / "A")
    assert_in(fault_of(root, "test"), root, "has no folder 'test'", "expected {train,test}/<track>")
    message = fault_of(root / "train")
    assert_in(message, "has no folder 'train'", f"root must be the folder above it: {root}")
    assert_in(fault_of(root.parent), f"did you mean {root}?")


def test_subset_without_tracks(root: Path) -> None:
    (root / "train").mkdir(parents=True)
    assert_in(fault_of(root), root / "train", "no tracks", "found: nothing", "expected {train")
    (root / "train" / "song.mp3").touch()
    assert_in(fault_of(root), "found: song.mp3", "copy the tracks there")


def test_track_without_a_stem(root: Path) -> None:
    folder = write_track(root / "train" / "A")
    (folder / "drums.wav").rename(folder / "Drums.bak")
    message = fault_of(root)
    assert_in(message, folder, "no drums.wav (or .flac", "found: Drums.bak, bass.wav")
    assert_in(message, "every track needs vocals, drums, bass, other", "restore", "silence")


@pytest.mark.parametrize("stem", ["drums", "mixture"])
@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({"samples": SAMPLES + 1}, f"has {SAMPLES + 1} samples", f"has {SAMPLES} samples"),
        ({"rate": 16000}, "has 16000 Hz", f"has {RATE} Hz"),
        ({"channels": 1}, "has 1 channels", "has 2 channels"),
    ],
)
def test_stems_that_differ_in_length_rate_or_channels(
    root: Path, stem: str, change: dict[str, int], found: str, expected: str
) -> None:
    folder = write_track(root / "train" / "A")
    path = write_stem(folder / f"{stem}.wav", **change)
    assert_in(
        fault_of(root), path, found, f"but vocals.wav {expected}", "same", "export them again"
    )


def test_empty_truncated_and_non_audio_files(root: Path) -> None:
    truncated = write_track(root / "train" / "A") / "other.wav"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    empty = write_track(root / "train" / "B") / "mixture.wav"
    empty.write_bytes(b"")
    text = write_track(root / "train" / "C") / "vocals.wav"
    text.write_text("no audio " * 1000)
    flac = write_track(root / "train" / "D", "flac") / "vocals.flac"
    flac.write_bytes(flac.read_bytes()[:-1000])
    messages = fault_of_each(root)
    assert list(messages) == [truncated, empty, text, flac]
    assert_in(messages[truncated], "declares 8000 bytes of samples, the file has 7900", "again")
    assert_in(messages[empty], "is empty (0 bytes)", "expected an audio file", "again")
    assert_in(messages[text], "is not audio", "WAV, FLAC, Ogg or MP3 was expected", "convert")
    assert_in(messages[flac], "end cannot be read", "again")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_nan_and_infinity(root: Path, value: float, subtype: str) -> None:
    folder = write_track(root / "train" / "A", samples=300_000)
    waveform = np.zeros((2, 300_000), np.float32)
    path = write_float(folder / "bass.wav", waveform, subtype)
    index_tracks(root, "train")
    waveform[1, 280_000:] = value
    write_float(path, waveform, subtype)
    message = fault_of(root)
    assert_in(message, path, "holds NaN or infinity, first at 35.000 s (sample 280000)")
    assert_in(message, "expected finite samples", "export the stem again")


def test_files_are_scanned_for_nan_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.files.state._SETTLED_NS", -(10**18))
    good = write_track(root / "train" / "A") / "bass.wav"
    bad = write_track(root / "train" / "B") / "bass.wav"
    write_float(good, np.zeros((2, SAMPLES), np.float32))
    write_float(bad, np.full((2, SAMPLES), np.nan, np.float32))
    scanned = []
    blocks = audio.blocks

    def recording_blocks(path: Path, block_samples: int) -> Iterator[audio.Audio]:
        scanned.append(path)
        return blocks(path, block_samples)

    monkeypatch.setattr(audio, "blocks", recording_blocks)
    message = fault_of(root)
    assert sorted(scanned) == [good, bad]
    assert fault_of(root) == message
    assert len(scanned) == 2
    write_float(bad, np.zeros((2, SAMPLES), np.float32))
    index_tracks(root, "train")
    index_tracks(root, "train")
    assert scanned[2:] == [bad]
    os.utime(good, (5, 5))
    index_tracks(root, "train")
    assert scanned[3:] == [good]


def test_damaged_or_unwritable_file_facts_are_ignored(root: Path, cache: Path) -> None:
    folder = write_track(root / "train" / "A")
    write_float(folder / "bass.wav", np.zeros((2, SAMPLES), np.float32))
    cache.mkdir()
    (cache / "ledger.jsonl").write_text("{\n")
    index_tracks(root, "train")
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    index_tracks(root, "train")


def test_tracks_of_different_sample_rates_are_indexed(root: Path) -> None:
    write_track(root / "train" / "A", rate=16000)
    write_track(root / "train" / "B")
    assert [track.sample_rate for track in index_tracks(root, "train")] == [16000, RATE]


def test_many_faults_are_reported_together(root: Path) -> None:
    for number in range(8):
        folder = write_track(root / "train" / str(number))
        if number != 3:
            (folder / "bass.wav").unlink()
    lines = fault_of(root).splitlines()
    assert lines[0] == "7 faults in the data:"
    assert [Path(line.strip().partition(": ")[0]).name for line in lines[1:6]] == list("01245")
    assert lines[6:] == ["  ... and 2 more"]


# --------------------------------------------------------------------- split


def named(*names: str) -> list[Track]:
    return [Track(name, "train", {}, None, 1, 1, 1) for name in names]


def names_of(tracks: list[Track]) -> list[str]:
    return [track.name for track in tracks]


def test_split_by_official_names() -> None:
    split = split_validation(named("b", "ANiMAL - Rockshow", "a", "Leaf - Summerghost"))
    assert names_of(split.train) == ["a", "b"]
    assert names_of(split.valid) == ["ANiMAL - Rockshow", "Leaf - Summerghost"]
    assert split.rule == "validation: 2 of the 14 named tracks"


def test_split_by_fraction() -> None:
    tracks = named(*(f"{number:03d}" for number in range(100)))
    split = split_validation(tracks[::-1])
    assert len(split.valid) == 14
    assert names_of(split.valid)[:3] == ["003", "010", "017"]
    assert sorted(names_of(split.train + split.valid)) == names_of(tracks)
    assert_in(split.rule, "none of the 14 official", "14 of 100 tracks", "evenly spaced")
    for count in range(2, 30):
        for fraction in (0.001, 0.14, 0.5, 0.999):
            split = split_validation(tracks[:count], fraction=fraction)
            assert split.train
            assert len(set(names_of(split.valid))) == len(split.valid) >= 1
            assert len(split.train) + len(split.valid) == count


@pytest.mark.parametrize("names", [["a", "wrong"], []])
def test_required_names_must_exist(names: list[str]) -> None:
    assert names_of(split_validation(named("a", "b"), ["a"], required=True).valid) == ["a"]
    with pytest.raises(DataError) as fault:
        split_validation(named("a", "b"), names, required=True)
    what = "lists unknown tracks ('wrong')" if names else "is empty"
    assert_in(str(fault.value), f"validation_tracks {what}", "'a', 'b'", "correct")


def test_split_without_training_or_validation_tracks() -> None:
    with pytest.raises(
        DataError, match="left for validation: training tracks found: 1, expected at least 2"
    ):
        split_validation(named("a"))
    with pytest.raises(DataError, match=r"left for training: .* 1 track, which is all; add tracks"):
        split_validation(named("Leaf - Summerghost"))


# ----------------------------------------------------------------- real data


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("STEMLAB_TEST_DATA")
    if not folder:
        pytest.skip("STEMLAB_TEST_DATA, the folder of real recordings, is not set")
    return Path(folder)


def test_real_flac_root(real_data: Path) -> None:
    tracks = index_tracks(real_data / "music", "train")
    assert len(tracks) == 4
    for track in tracks:
        assert (track.sample_rate, track.channels) == (44100, 2)
        assert track.seconds == pytest.approx(75, abs=1)
        part = track.read_stems(STEMS, 44100 * 40, 44100)
        mixture = track.read_mixture(44100 * 40, 44100)
        assert np.abs(part.sum(0) - mixture).max() < 1e-6
        whole, _ = soundfile.read(track.stems["drums"], dtype="float32")
        np.testing.assert_array_equal(
            track.read("drums", 1_000_000, 500), whole.T[:, 1_000_000:1_000_500]
        )
    assert len(index_tracks(real_data / "music", "test")) == 1


def test_real_stem_file(real_data: Path, root: Path) -> None:
    import stempeg

    (path,) = (real_data / "stems").glob("*.stem.mp4")
    (root / "test").mkdir(parents=True)
    (root / "test" / path.name).symlink_to(path)
    (track,) = index_tracks(root, "test")
    stems, rate = stempeg.read_stems(str(path))
    assert (track.name, track.sample_rate) == ("Music Delta - 80s Rock", rate)
    for number, stem in enumerate(("mixture", "drums", "bass", "other", "vocals")):
        np.testing.assert_array_equal(track.read(stem), stems[number].T.astype(np.float32))
