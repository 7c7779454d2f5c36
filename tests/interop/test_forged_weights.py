"""Weights files of other packages that are invalid: one clear error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.architectures.hybrid_demucs import HybridDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop import demucs, open_unmix
from lightning_modules.interop.fine_tuning import read_separator
from lightning_modules.tools import import_demucs, import_open_unmix
from tests.helpers.demucs_package import network
from tests.helpers.open_unmix_package import package_networks, write

STATE = network().state_dict()
HYBRID = HybridDemucs(list("abcd"), channels=4, n_fft=1024).network.state_dict()
FOUR = ["drums", "bass", "other", "vocals"]


def refusal(path: Path) -> str:
    """The message of refused weights, which is one line and names the file."""
    with pytest.raises(CheckpointError) as error:
        read_separator(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"kwargs": 3, "state": STATE}, "its arguments are 3; a mapping was expected"),
        ({"kwargs": None, "state": STATE}, "its arguments are None"),
        ({"kwargs": [("sources", FOUR)], "state": STATE}, "its arguments are"),
        (("Demucs", (), 3, STATE), "its arguments are 3"),
        (("Demucs", (), {}, 3), "its weights are of type int"),
        ((1, 2, 3), "its weights are of type tuple"),
        ({"kwargs": {}, "state": None}, "its weights are of type NoneType"),
        ({"kwargs": {}, "state": []}, "its weights are of type list"),
        ({"kwargs": {"sources": "dbov"}, "state": STATE}, "sources is 'dbov'"),
        ({"kwargs": {"sources": []}, "state": STATE}, "sources is []"),
        ({"kwargs": {"sources": [1, 2, 3, 4]}, "state": STATE}, "sources has 1"),
        ({"kwargs": {"sources": ["/../evil", *"abc"]}, "state": STATE}, "sources has '/../evil'"),
        ({"kwargs": {"sources": [*FOUR[:3], "Drums"]}, "state": STATE}, "names that differ"),
        ({"kwargs": {"sources": FOUR[:2]}, "state": STATE}, "has 8 channels, 2 for each of"),
        ({"kwargs": {"samplerate": None}, "state": STATE}, "its samplerate is None"),
        ({"kwargs": {"samplerate": "44100"}, "state": STATE}, "its samplerate is '44100'"),
        ({"kwargs": {"samplerate": 0}, "state": STATE}, "its samplerate is 0"),
        ({"kwargs": {"samplerate": -1.0}, "state": STATE}, "its samplerate is -1"),
        ({"kwargs": {"samplerate": float("inf")}, "state": STATE}, "its samplerate is inf"),
        ({"kwargs": {"samplerate": float("nan")}, "state": STATE}, "its samplerate is nan"),
        ({"kwargs": {"samplerate": 7}, "state": STATE}, "sample_rate is 7"),
        ({"kwargs": {}, "state": {**STATE, "lstm.linear.bias": 3}}, "are of type int"),
        ({**STATE, "encoder.0.0.weight": torch.tensor(1.0)}, "were expected"),
        ({**STATE, "encoder.0.0.weight": torch.ones(10**4, 2, 8)}, "more weights than the file"),
        ({**STATE, "encoder.0.0.weight": torch.ones(1).expand(10**9, 2, 8)}, "but fewer numbers"),
        ({**HYBRID, "freq_emb.embedding.weight": torch.ones(256, 9000)}, "were expected"),
        ({**HYBRID, "freq_emb.embedding.weight": torch.ones(9)}, "were expected"),
    ],
)  # fmt: skip
def test_files_of_demucs(contents: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "demucs.th"
    torch.save(contents, path)
    assert words in refusal(path)


def test_a_rate_that_is_stored_as_a_float(tmp_path: Path) -> None:
    torch.save({"kwargs": {"samplerate": 48000.0}, "state": STATE}, tmp_path / "demucs.th")
    assert demucs.from_package(tmp_path / "demucs.th").sample_rate == 48000


@pytest.fixture(scope="module")
def umx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("umx")
    write(package_networks(["vocals", "bass"]), folder)
    return folder


def copied(umx: Path, folder: Path, **names: str) -> Path:
    for path in umx.iterdir():
        (folder / names.get(path.stem, path.name)).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.b.pth", "sources has 'a.b': PyTorch does not accept it"),
        ("keys.pth", "sources has 'keys'"),
        ("Vocals.pth", "names that differ"),
        ("mixture.pth", "is the song itself"),
        ("-1234.pth", "sources has ''"),
        (" bass.pth", "sources has ' bass'"),
        (".pth.pth", "sources has '.pth'"),
        ("ba\nss.pth", "sources has 'ba\\nss'"),
        (f"{'x' * 220}.pth", "longer than 200 bytes"),
    ],
)
def test_names_of_open_unmix(umx: Path, tmp_path: Path, name: str, words: str) -> None:
    assert words in refusal(copied(umx, tmp_path, bass=name))


def test_suffixes_in_capitals(umx: Path, tmp_path: Path) -> None:
    folder = copied(umx, tmp_path, bass="bass.PTH")
    assert open_unmix.from_package(folder).sources == ["vocals", "bass"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"sample_rate": 0}', "its sample_rate is 0"),
        ('{"sample_rate": null}', "its sample_rate is None"),
        ('{"sample_rate": 44100.5}', "its sample_rate is 44100.5"),
        ('{"sample_rate": Infinity}', "its sample_rate is inf"),
        ('{"sample_rate": 1e400}', "its sample_rate is inf"),
        ('{"sample_rate": "44100"}', "its sample_rate is '44100'"),
        ('{"sample_rate": [44100]}', "its sample_rate is [44100]"),
        ('{"sample_rate": true}', "its sample_rate is True"),
        ('{"sample_rate": 7}', "sample_rate is 7"),
        ('{"nhop": 0}', "its nhop is 0"),
        ('{"nhop": null}', "its nhop is None"),
        ('{"nhop": 100000}', "hop_length is 100000"),
        ("null", "a JSON object was expected"),
        ("[]", "a JSON object was expected"),
        ("", "a JSON object was expected"),
        ("[" * 100_000, "a JSON object was expected"),
        ("\ufeff{}", "a JSON object was expected"),
    ],
)
def test_settings_of_open_unmix(umx: Path, tmp_path: Path, text: str, words: str) -> None:
    folder = copied(umx, tmp_path)
    (folder / "separator.json").write_text(text, encoding="utf-8")
    assert words in refusal(folder)
    (folder / "separator.json").write_bytes(b"\xff\xfe\x00")
    assert "a JSON object was expected" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"fc1.weight": torch.tensor(1.0)},
        {"input_mean": torch.tensor(1.0)},
        {"input_mean": torch.ones(0)},
        {"output_mean": torch.ones(0)},
        {"output_mean": torch.ones(1)},
        {"output_mean": torch.ones(3)},
        {"fc3.weight": torch.ones(0, 1)},
        {"fc1.weight": torch.ones(15, 1)},
        {"fc1.weight": torch.ones(100_000, 1)},
        {"lstm.weight_ih_l7": torch.ones(1)},
        {"bn1.weight": 3},
        {3: torch.ones(1)},
    ],
)
def test_weights_of_open_unmix(umx: Path, tmp_path: Path, changes: dict[Any, Any]) -> None:
    folder = copied(umx, tmp_path)
    for path in folder.glob("*.pth"):
        torch.save({**torch.load(path, weights_only=True), **changes}, path)
    refusal(folder)


def test_the_tools_write_nothing(
    umx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.ckpt"
    torch.save({"kwargs": 3, "state": STATE}, tmp_path / "demucs.th")
    (tmp_path / "umx").mkdir()
    copied(umx, tmp_path / "umx", bass="a.b.pth")
    for tool, given in ((import_demucs, "demucs.th"), (import_open_unmix, "umx")):
        assert tool.main([str(tmp_path / given), "-o", str(output)]) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert error.startswith(f"error: {tmp_path / given}")
        assert not output.exists()
