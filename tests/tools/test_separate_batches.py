"""Many songs with the separate tool: what is bad, what exists, what does not fit on the disk."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from lightning_modules.architectures.unet import UNet
from lightning_modules.inference import songs
from lightning_modules.tools import separate
from tests.helpers.checkpoints import save
from tests.helpers.command_line import REPOSITORY
from tests.helpers.failing_songs import fail_at
from tests.tools.test_separate import RATE, file_stems, song

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(6)
    model = UNet(["vocals", "other"], channels=[4, 8], segment_seconds=0.5, mask="ratio")
    return str(save(model, tmp_path_factory.mktemp("model") / "model.ckpt"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(checkpoint: str, *words: str) -> int:
    return separate.main([*words, "--checkpoint", checkpoint, "-o", "out"])


def errors(capsys: Output) -> list[str]:
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def nothing_unfinished() -> bool:
    return not list(Path().rglob("*.unfinished"))


def test_all_bad_songs_are_named_before_the_good_ones_are_done(
    checkpoint: str, capsys: Output
) -> None:
    song(Path("songs/a.wav"), 0.1)
    Path("songs/b.wav").write_text("dear diary")
    Path("songs/c.wav").touch()
    song(Path("songs/six.wav"), 0.1, channels=6)
    song(Path("songs/four.flac"), 0.1, channels=4)
    assert run(checkpoint, "songs", "gone.wav") == 1
    said = errors(capsys)
    assert [line.partition(":")[0] for line in said] == [
        "songs/b.wav",
        "songs/c.wav",
        "gone.wav",
        "songs/four.flac",
        "songs/six.wav",
    ]
    assert "4 channels, the model separates 2" in said[3]
    assert "ffmpeg -i OLD -ac 2" in said[3]
    assert file_stems("out") == ["a"]
    assert run(checkpoint, "songs/b.wav", "songs/six.wav") == 2, "nothing can be done"
    assert len(errors(capsys)) == 2
    assert run(checkpoint, "songs/six.wav", "songs/four.flac", "--downmix", "--residual") == 0
    assert soundfile.info("out/six/residual.wav").channels == 2


def test_albums_keep_their_folders(checkpoint: str) -> None:
    for album in ("A", "B"):
        song(Path(f"albums/{album}/01 Intro.wav"), 0.1)
    assert run(checkpoint, "albums", "albums/A/01 Intro.wav") == 0
    assert file_stems("out") == ["A", "B"]
    assert file_stems("out/B/01 Intro") == ["other", "vocals"]


def test_template(checkpoint: str, capsys: Output) -> None:
    for album in ("A", "B"):
        song(Path(f"albums/{album}/x.wav"), 0.1)
    words = ["albums", "--name", "{song} - {stem}", "--format", "flac"]
    assert run(checkpoint, *words) == 2
    assert "both be written to out/x - vocals.flac" in errors(capsys)[0]
    assert not Path("out").exists()
    words[0] = "albums/A"
    assert run(checkpoint, *words) == 0
    assert capsys.readouterr().out.split("\n") == [
        "out/x - vocals.flac",
        "out/x - other.flac",
        "",
    ]
    assert file_stems("out", "flac") == ["x - other", "x - vocals"]
    assert run(checkpoint, *words) == 2
    assert "out/x - vocals.flac and 1 more already exist" in errors(capsys)[0]
    assert run(checkpoint, *words, "--resume") == 0
    assert run(checkpoint, *words, "--force") == 0


@pytest.mark.parametrize(
    "name",
    ["..wav", "...wav", "new\nline.wav", "con.wav", " .wav", "-a.wav", "x" * 251 + ".wav",
     "é" * 125 + ".wav", "file:x.wav", "q'\"$(x).wav", "\x1b[31m.wav", "\udcff.wav"],
)  # fmt: skip
def test_any_name(name: str, checkpoint: str, capsys: Output) -> None:
    song(Path("in/song.wav"), 0.1)
    Path("in/song.wav").rename(f"in/{name}")
    before = set(Path().rglob("*"))
    assert run(checkpoint, f"in/{name}", "--format", "flac") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    created = [path for path in set(Path().rglob("*")) - before if path.is_file()]
    assert len(created) == 2
    assert all(path.is_relative_to("out") for path in created)
    assert nothing_unfinished()


def test_stems_beside_the_songs(checkpoint: str) -> None:
    """The second run finds the stems of the first in the folder that it searches."""
    song(Path("out/a.wav"), 0.1)
    assert run(checkpoint, "out") == 0
    song(Path("out/b.wav"), 0.1)
    assert run(checkpoint, "out", "--resume") == 0
    assert sorted(path.name for path in Path("out").rglob("*.wav") if path.parent.name == "b") == [
        "other.wav",
        "vocals.wav",
    ]
    assert not Path("out/a/vocals").exists()


@pytest.mark.parametrize("error", [RuntimeError("a\nlibrary"), KeyError("x"), MemoryError()])
def test_errors_of_libraries_do_not_end_the_batch(
    error: Exception, checkpoint: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        song(Path(f"{name}.wav"), 0.1)
    fail_at(monkeypatch, "a.wav", error)
    assert run(checkpoint, "a.wav", "b.wav") == 1
    (line,) = errors(capsys)
    assert line.startswith("a.wav: ")
    assert file_stems("out") == ["b"]


def test_too_small_disk_is_told_before_the_first_song(
    checkpoint: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        song(Path(f"{name}.wav"), 1)
    disk = SimpleNamespace(free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: disk)
    assert run(checkpoint, "a.wav", "b.wav") == 2
    (line,) = errors(capsys)
    assert "a.wav: its stems and those of 1 more need at least 2.1 MB" in line
    assert "1.0 MB are free on the disk /" in line
    assert not Path("out").exists()
    disk.free = 3 * 10**6
    assert run(checkpoint, "a.wav", "b.wav") == 0


@pytest.mark.parametrize("words", ["wav", "flac", "mp3", "stem.mp4", "wav --residual --bits 16"])
def test_failed_writing(
    words: str, checkpoint: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large song is reported with file, reason and room; the small one is done."""
    song(Path("large.wav"), 3)
    song(Path("small.wav"), 0.1)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, former[1]))
    try:
        assert run(checkpoint, "large.wav", "small.wav", "--format", *words.split()) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    (line,) = errors(capsys)
    assert line.startswith("large.wav: out/large/")
    assert f"({os.strerror(errno.EFBIG)}; " in line
    assert "MB are free on the disk /" in line
    assert file_stems("out") == ["small"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_next_run_removes_what_a_killed_one_left(number: int, checkpoint: str) -> None:
    soundfile.write("long.wav", np.zeros((600 * RATE, 2), np.int16), RATE)
    song(Path("a.wav"), 0.1)
    command = [sys.executable, "-m", "lightning_modules.tools.separate", "--checkpoint", checkpoint]
    with subprocess.Popen(
        [*command, "long.wav", "-o", "out", "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    ) as process:
        while not list(Path().glob("out/.*.unfinished/*.wav")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    assert nothing_unfinished() == (number == signal.SIGTERM)
    assert run(checkpoint, "a.wav") == 0
    assert nothing_unfinished()


@pytest.mark.slow
def test_songs_share_batches_where_that_saves_time(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    for number in range(6):
        song(Path(f"songs/{number}.wav"), 0.3 + 0.3 * (number % 3))
    Path("songs/3.wav").write_bytes(Path("songs/3.wav").read_bytes()[:5000])  # incomplete
    audio = np.full((30_000, 2), np.nan)
    soundfile.write("songs/nan.wav", audio, RATE, subtype="FLOAT")
    words = ["songs", "--checkpoint", checkpoint, "--checkpoint", checkpoint, "-o"]
    assert separate.main([*words, "alone"]) == 1
    sizes: list[int] = []
    forward = UNet.forward

    def recording(self: UNet, mixture: torch.Tensor) -> torch.Tensor:
        sizes.append(len(mixture))
        return forward(self, mixture)

    monkeypatch.setattr(UNet, "forward", recording)
    monkeypatch.setattr(songs, "_PROPORTIONAL", ())
    assert separate.main([*words, "together"]) == 1
    assert sizes.count(4) >= 4
    assert len(errors(capsys)) == 2
    stems = sorted(Path("alone").rglob("*.wav"))
    assert len(stems) == 12
    for path in stems:
        other = Path("together") / path.relative_to("alone")
        difference = soundfile.read(path)[0] - soundfile.read(other)[0]
        assert np.abs(difference).max(initial=0) < 1e-6


def test_json_has_a_line_for_each_song(checkpoint: str, capsys: Output) -> None:
    song(Path("a.wav"), 0.5)
    song(Path("b.wav"), 0.1, channels=4)
    Path("text.wav").write_text("dear diary")
    song(Path("short.wav"), 0.5)
    Path("short.wav").write_bytes(Path("short.wav").read_bytes()[:50_000])
    names = ["a.wav", "b.wav", "text.wav", "short.wav"]
    assert run(checkpoint, *names, "--json", "--quiet") == 1
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.err.splitlines()] == [
        "error",
        "error",
        "warning",
    ]
    lines = {line["song"]: line for line in map(json.loads, said.out.splitlines())}
    assert {name: line["status"] for name, line in lines.items()} == {
        "a.wav": "done",
        "b.wav": "failed",
        "text.wav": "failed",
        "short.wav": "incomplete",
    }
    done = lines["a.wav"]
    assert done["files"] == {name: f"out/a/{name}.wav" for name in ("vocals", "other")}
    assert (done["models"], done["seconds"], done["gain"]) == ([checkpoint], 0.5, 1)
    assert done["real_time_factor"] == pytest.approx(done["elapsed_seconds"] / 0.5, rel=1e-3)
    assert done["message"] is None
    assert "4 channels" in lines["b.wav"]["message"]
    assert "dear" not in lines["text.wav"]["message"]
    assert "truncated" in lines["short.wav"]["message"]
    assert len({frozenset(line) for line in lines.values()}) == 1, "the same keys everywhere"
    assert run(checkpoint, "a.wav", "--json", "--resume") == 0
    (skipped,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (skipped["status"], skipped["files"]) == ("skipped", done["files"])
    assert run(checkpoint, "b.wav", "text.wav", "--json") == 2, "nothing can be done"
    assert [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()] == [
        "failed", "failed",
    ]  # fmt: skip
    assert run(checkpoint, "a.wav", "b.wav", "--json") == 2
    bad, mistake = map(json.loads, capsys.readouterr().out.splitlines())
    assert (bad["song"], bad["status"]) == ("b.wav", "failed")
    assert (mistake["song"], mistake["status"]) == (None, "failed")
    assert "already exist" in mistake["message"]


def test_quiet_prints_nothing_if_all_is_well(checkpoint: str, capsys: Output) -> None:
    song(Path("songs/a.wav"), 0.1)
    Path("songs/notes.txt").write_text("x")
    assert run(checkpoint, "songs", "--quiet") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
