"""The box of Native Instruments' Stems in an MP4 file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lightning_modules.inference.encoding import MIXTURE, Encoding
from lightning_modules.inference.stem_box import DJ_STEMS, Box, add_stem_box, boxes

RATE = 44100


def find(path: Path, *names: str) -> tuple[Box, bytes]:
    """A box, by its own name and those of the boxes around it, and its content."""
    with path.open("rb") as file:
        start, end = 0, path.stat().st_size
        for name in names:
            found = [box for box in boxes(file, start, end) if box.name == name.encode()]
            assert len(found) == 1, names
            start, end = found[0].content, found[0].end
        file.seek(start)
        return found[0], file.read(end - start)


def write_sources(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    sources = {}
    for number, name in enumerate(names):
        sources[name] = folder / f"{name}.wav"
        tone = 0.1 * np.sin(np.arange(RATE // 10) * (number + 1) * 0.05)
        soundfile.write(sources[name], np.stack([tone, tone], 1), RATE, "FLOAT")
    return sources


def streams_of(path: Path) -> list[bytes]:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map"]
    return [
        subprocess.run(
            [*command, f"0:a:{number}", "-f", "s16le", "-"], check=True, capture_output=True
        ).stdout
        for number in range(5)
    ]


def test_box_of_the_four_stems(tmp_path: Path) -> None:
    sources = write_sources(tmp_path, ("vocals", "other", MIXTURE, "bass", "drums"))
    path = tmp_path / "song.stem.mp4"
    Encoding("stem.mp4").write(sources, [path], 1.0, {"title": "A title"})
    content = json.loads(find(path, "moov", "udta", "stem")[1])
    assert content["version"] == 1
    assert [stem["name"] for stem in content["stems"]] == ["Drums", "Bass", "Other", "Vocals"]
    assert len({stem["color"] for stem in content["stems"]}) == 4
    assert {*content["mastering_dsp"]} == {"compressor", "limiter"}
    assert b"A title" in find(path, "moov", "udta", "meta")[1], "tags are kept"
    checked = subprocess.run(
        ["ffprobe", "-v", "warning", "-show_streams", str(path)], check=True, capture_output=True
    )
    assert checked.stdout.count(b"codec_name=aac") == 5
    assert not checked.stderr
    assert [stem.lower() for stem in ("Drums", "Bass", "Other", "Vocals")] == list(DJ_STEMS)


@pytest.mark.parametrize("names", [("vocals", "other"), (*DJ_STEMS, "residual"), DJ_STEMS[:3]])
def test_no_box_for_other_stems(names: tuple[str, ...], tmp_path: Path) -> None:
    sources = write_sources(tmp_path, (MIXTURE, *names))
    path = tmp_path / "song.stem.mp4"
    Encoding("stem.mp4").write(sources, [path], 1.0, {})
    assert b"stem" not in find(path, "moov", "udta")[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-movflags", "faststart"]])
def test_audio_is_unchanged_wherever_the_index_is(options: list[str], tmp_path: Path) -> None:
    sources = write_sources(tmp_path, (MIXTURE, *DJ_STEMS))
    path = tmp_path / "song.mp4"
    inputs = [word for source in sources.values() for word in ("-i", str(source))]
    maps = [word for number in range(5) for word in ("-map", f"{number}:a")]
    command = ["ffmpeg", "-v", "error", *inputs, *maps, "-c:a", "aac", *options, str(path)]
    subprocess.run(command, check=True)
    before = streams_of(path)
    add_stem_box(path)
    assert streams_of(path) == before
    assert find(path, "moov")[0].end == path.stat().st_size
    assert b"mastering_dsp" in find(path, "moov", "udta", "stem")[1]
