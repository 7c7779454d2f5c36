from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from lightning_modules.interop.published import published_models
from lightning_modules.tools import models, separate, webapp
from tests.helpers import open_unmix_package
from tests.helpers.published import Publisher, publishing


@pytest.fixture(autouse=True)
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    with publishing(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def umxhq(publisher: Publisher, tmp_path: Path) -> str:
    networks = open_unmix_package.package_networks(["vocals", "drums"])
    open_unmix_package.write(networks, tmp_path, "-00112233")
    publisher.publish("umxhq", *sorted(tmp_path.glob("*.pth")))
    return "umxhq"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert models.main(arguments) == 0
    return capsys.readouterr().out


def listed(text: str) -> list[str]:
    return re.findall(r"^[a-z0-9_]+(?=  )", text, re.MULTILINE)[1:]  # without the heading


def test_all_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert listed(text) == [*published_models()]
    row = next(line for line in text.splitlines() if line.startswith("umxl "))
    assert re.split("  +", row) == [
        "umxl", "vocals drums bass other", "CC BY-NC-SA 4.0", "7.21", "6.32", "cSDR, MUSDB18",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "some", "none"),
    [
        (["--stem", "piano"], "htdemucs_6s", "htdemucs"),
        (["--stem", "piano", "--stem", "guitar"], "bs_roformer_sw", "umxhq"),
        (["--licence", "mit"], "mel_band_roformer_kim", "umxl"),
        (["--license", "CC BY"], "umxl", "umxhq"),
        (["--max-mb", "60"], "scnet", "htdemucs"),
    ],
)
def test_filters(
    options: list[str], some: str, none: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = listed(printed(capsys, *options))
    assert some in names
    assert none not in names


def test_downloaded_models(umxhq: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["--downloaded"]) == 2
    assert "no model has all that is asked for" in capsys.readouterr().err
    assert f"{umxhq}: Open-Unmix" in printed(capsys, umxhq, "--download")
    assert listed(printed(capsys, "--downloaded")) == [umxhq]


def test_a_model_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "htdemucs_ft", "umxhq")
    assert "htdemucs_ft: htdemucs, fine-tuned" in text
    assert "hybrid_transformer/f7e0c4bc-ba3fe64a.th\n      84.1 MB, SHA-256 ba3fe64a\n" in text
    assert "cSDR in dB, MUSDB18-HQ: vocals 9.20, drums 10.08, bass 10.39, other 6.32" in text
    assert "stemlab separate song.mp3 --model htdemucs_ft" in text
    assert "umxhq: Open-Unmix, trained on MUSDB18-HQ" in text


def test_json_has_all_facts(capsys: pytest.CaptureFixture[str], publisher: Publisher) -> None:
    (facts,) = json.loads(printed(capsys, "htdemucs", "--json"))
    assert facts["name"] == "htdemucs"
    assert facts["bytes"] == 84141911
    assert facts["downloaded"] is False
    assert facts["folder"] == str(publisher.store / "htdemucs")
    assert facts["files"][0]["sha256"] == "8726e21a"
    assert len(json.loads(printed(capsys, "--json"))) == len(published_models())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["htdemcus"], "htdemcus: .* did you mean htdemucs"),
        (["--download"], "--download: give the names"),
        (["--stem", "kazoo"], "no model has all that is asked for"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def _song(folder: Path) -> Path:
    path = folder / "song.wav"
    soundfile.write(path, [[0.1, -0.1]] * 8000, 44100)
    return path


@pytest.mark.slow
def test_separate_by_name(umxhq: str, tmp_path: Path) -> None:
    arguments = [str(_song(tmp_path)), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert separate.main([*arguments, "--model", umxhq]) == 0
    stems = sorted(path.name for path in (tmp_path / "out" / "song").iterdir())
    assert stems == ["drums.wav", "vocals.wav"]


@pytest.mark.slow
def test_separate_without_a_model_says_which_it_takes(
    umxhq: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(separate, "default_model", lambda: umxhq)
    arguments = [str(_song(tmp_path)), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert separate.main(arguments) == 0
    assert "no model is given: using umxhq; --model gives another" in capsys.readouterr().err
    assert (tmp_path / "out" / "song" / "vocals.wav").is_file()


@pytest.mark.parametrize("tool", [separate, webapp])
def test_a_misspelt_model_is_told_at_once(
    tool: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = [str(_song(tmp_path))] if tool is separate else []
    main = separate.main if tool is separate else webapp.main
    assert main([*songs, "--model", "umxhk"]) == 2
    assert "did you mean umxhq" in capsys.readouterr().err
