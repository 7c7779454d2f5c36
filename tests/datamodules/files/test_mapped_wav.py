"""Memory-mapped WAV files and crops written into batches."""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from datamodules.cache import pcm
from datamodules.errors import DataError
from datamodules.files import mapped_wav
from datamodules.files import write_crop as write_crop_module
from datamodules.files.mapped_wav import MappedFile, MappedFiles
from datamodules.files.state import state
from datamodules.files.wav import is_mappable, read_wav_header
from datamodules.files.write_crop import write_crop

RATE = 44100
MAPPABLE = [
    ("WAV", "PCM_16", 2),
    ("WAV", "PCM_32", 1),
    ("WAV", "FLOAT", 2),
    ("WAV", "DOUBLE", 2),
    ("WAVEX", "PCM_16", 3),
    ("WAVEX", "FLOAT", 2),
    ("RF64", "PCM_16", 2),
]


def write(path: Path, kind: str = "WAV", subtype: str = "PCM_16", channels: int = 2) -> np.ndarray:
    audio = np.random.default_rng(0).uniform(-0.9, 0.9, (5000, channels))
    soundfile.write(path, audio, RATE, subtype=subtype, format=kind)
    stored: np.ndarray = soundfile.read(path, dtype="float32", always_2d=True)[0]
    return stored


@pytest.mark.parametrize(("kind", "subtype", "channels"), MAPPABLE)
def test_mapped_samples_equal_soundfile(
    tmp_path: Path, kind: str, subtype: str, channels: int
) -> None:
    expected = write(tmp_path / "a.wav", kind, subtype, channels)
    assert is_mappable(tmp_path / "a.wav")
    target = torch.full((channels, 700), torch.nan)
    write_crop(MappedFile(tmp_path / "a.wav").crop(1234, 700), target)
    assert np.array_equal(target.numpy().T, expected[1234:1934])


def test_chunks_around_the_samples_are_skipped(tmp_path: Path) -> None:
    expected = write(tmp_path / "a.wav")
    content = (tmp_path / "a.wav").read_bytes()
    at = content.index(b"fmt ")
    odd = b"LIST" + struct.pack("<I", 5) + b"hello" + b"\0"
    (tmp_path / "a.wav").write_bytes(content[:at] + odd + content[at:] + b"tail")
    target = torch.empty(2, 5000)
    write_crop(MappedFile(tmp_path / "a.wav").crop(0, 5000), target)
    assert np.array_equal(target.numpy().T, expected)


def test_24_bits_and_other_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", subtype="PCM_24")
    write(tmp_path / "a.flac", "FLAC")
    write(tmp_path / "mu.wav", subtype="ULAW")
    for name in ("a.wav", "a.flac", "mu.wav"):
        assert not is_mappable(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.wav.*16 or 32-bit"):
        MappedFile(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("kind", "subtype", "decoded"),
    [("FLAC", "PCM_16", "PCM_16"), ("FLAC", "PCM_24", "FLOAT"), ("WAV", "PCM_24", "FLOAT")],
)
def test_other_formats_are_decoded_once_without_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, subtype: str, decoded: str
) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"a.{kind.lower()}"
    expected = write(path, kind, subtype)
    file = pcm.decode([path], progress=False)[path].file()
    assert soundfile.info(file).subtype == decoded
    target = torch.empty(2, 5000)
    write_crop(MappedFile(file).crop(0, 5000), target)
    assert np.array_equal(target.numpy().T, expected)
    before = file.stat().st_mtime_ns
    pcm.decode([path], progress=False)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float32])
@pytest.mark.parametrize(("channels", "wanted"), [(1, 1), (2, 2), (2, 1), (1, 2), (3, 3)])
def test_crop_is_converted_scaled_swapped_and_padded(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    channels: int,
    wanted: int,
    dtype: torch.dtype,
    compiled: bool,
) -> None:
    if not compiled:
        monkeypatch.setitem(sys.modules, "numba", None)
        write_crop_module._stereo_kernel.cache_clear()
        request.addfinalizer(write_crop_module._stereo_kernel.cache_clear)
    full = {torch.int16: 2**15, torch.int32: 2**31, torch.float32: 1}[dtype]
    audio = torch.rand(100, channels, dtype=torch.float64) * 2 - 1
    source = (audio * full).to(dtype)
    exact = (source.double() / full).T
    exact = exact.mean(0, keepdim=True) if wanted == 1 else exact.expand(wanted, -1)
    for swap in (False, True):
        target = torch.full((wanted, 130), torch.nan)
        write_crop(source, target, gain=0.3, swap=swap)
        expected = (exact.flip(0) if swap else exact) * 0.3
        assert torch.allclose(target[:, :100].double(), expected, atol=1e-7)
        assert target[:, 100:].abs().max() == 0


def test_a_wav_without_a_data_chunk_has_no_header(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: content.index(b"data")])
    assert read_wav_header(tmp_path / "a.wav") is None


def test_crop_past_the_end_is_shorter(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    assert MappedFile(tmp_path / "a.wav").crop(4900, 700).shape == (100, 2)


class RecordingMap:
    """Records the ``madvise`` calls to a mapping."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.advised: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.size

    def madvise(self, advice: int, start: int, length: int) -> None:
        assert advice == mmap.MADV_WILLNEED
        self.advised.append((start, length))


def test_parts_are_prefetched_once_and_again_after_a_page_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(ru_majflt=7)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(mapped_wav, "_PART_BYTES", mmap.PAGESIZE)
    write(tmp_path / "a.wav")  # 44 bytes of header and 20,000 of samples: five parts
    file = MappedFile(tmp_path / "a.wav")
    recording = RecordingMap(len(file._map))
    monkeypatch.setattr(file, "_map", recording)
    page = mmap.PAGESIZE
    file.crop(0, 10)
    file.crop(5, 100)
    assert recording.advised == [(0, page)]
    file.crop(900, 1100)  # bytes 3,644 to 8,044: the first two parts
    assert recording.advised == [(0, page), (0, 2 * page)]
    file.crop(4900, 300)  # the last part is short, and the crop goes past it
    assert recording.advised[2:] == [(4 * page, 20_044 - 4 * page)]
    file.crop(6000, 300)
    assert len(recording.advised) == 3
    usage.ru_majflt = 8
    file.crop(0, 10)
    file.crop(0, 10)
    assert recording.advised[3:] == [(0, page)]


def test_samples_after_an_unfinished_header_extend_to_the_end(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    header = read_wav_header(tmp_path / "a.wav")
    assert header is not None
    assert header.declared is None
    assert len(MappedFile(tmp_path / "a.wav").samples) == 5000


@pytest.mark.parametrize("fault", ["removed", "truncated", "replaced"])
def test_file_that_changes_while_mapped_is_an_error(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.wav"
    write(path)
    mappings = MappedFiles()
    mappings.crop(path, 0, 100)
    if fault == "removed":
        path.unlink()
    elif fault == "truncated":
        os.truncate(path, 1000)
    else:
        write(tmp_path / "b.wav", channels=1)
        shutil.move(tmp_path / "b.wav", path)
    with pytest.raises(DataError, match=r"a\.wav: was removed, replaced or changed.*ckpt_path"):
        mappings.crop(path, 4000, 100)


@pytest.mark.parametrize("fault", ["removed", "truncated", "replaced"])
def test_file_that_changes_before_it_is_mapped_is_an_error(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.wav"
    write(path)
    checked = state(path)
    MappedFiles({path: checked}).crop(path, 0, 100)
    if fault == "removed":
        path.unlink()
    elif fault == "truncated":
        os.truncate(path, 1000)
    else:
        write(tmp_path / "b.wav")
        shutil.move(tmp_path / "b.wav", path)
    with pytest.raises(DataError, match=r"a\.wav: was removed, replaced or changed.*ckpt_path"):
        MappedFiles({path: checked}).crop(path, 0, 100)
    copy = pickle.loads(pickle.dumps(MappedFiles({path: checked})))
    with pytest.raises(DataError, match="was removed, replaced or changed"):
        copy.crop(path, 0, 100)


def test_number_of_open_mappings_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_wav, "_OPEN_MAPPINGS", 3)
    mappings = MappedFiles()
    expected = [write(tmp_path / f"{number}.wav") for number in range(5)]
    for number in (0, 1, 2, 0, 3, 4, 0, 1):
        crop = mappings.crop(tmp_path / f"{number}.wav", 0, 10)
        assert np.allclose(crop.numpy() / 2**15, expected[number][:10])
    assert len(mappings._files) == 3
    assert len(pickle.loads(pickle.dumps(mappings))._files) == 0
