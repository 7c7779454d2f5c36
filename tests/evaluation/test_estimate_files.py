"""Files of estimates as other programs name them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from lightning_modules.evaluation.estimate_files import complement, find_estimates
from lightning_modules.evaluation.estimates import Settings

TRACK = "Ella Zoë - Più (Live)"
DECOMPOSED = unicodedata.normalize("NFD", TRACK)


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder: Path, settings: Settings | None = None) -> dict[str, str]:
    """Target -> file, relative to the folder, of the track's estimates."""
    names = (settings or Settings()).names
    estimates = find_estimates(folder, "test", [TRACK, "Another"], names)
    if TRACK not in estimates:
        return {}
    return {
        target: str(path.relative_to(folder)) for target, path in estimates[TRACK].originals.items()
    }


@pytest.mark.parametrize(
    "place",
    [
        TRACK,
        f"test/{TRACK}",
        f"Test/{TRACK}",
        DECOMPOSED,
        TRACK.upper(),
        f"test/{DECOMPOSED.lower()}",
    ],
)
@pytest.mark.parametrize("name", ["vocals.wav", "Vocals.wav", "vocals.WAV", "VOCALS.Flac"])
def test_letter_case_and_unicode_form(tmp_path: Path, place: str, name: str) -> None:
    write(tmp_path, f"{place}/{name}", f"{place}/Drums.wav")
    assert found(tmp_path) == {"vocals": f"{place}/{name}", "drums": f"{place}/Drums.wav"}


@pytest.mark.parametrize(
    "pattern",
    [
        "{track}/{target}.wav",  # demucs, Open-Unmix, spleeter
        "{track}/{target}.mp3",
        "{track}/{target}.m4a",
        "test/{track}/{target}.ogg",  # museval
        "{track}/{track}_{target}.wav",
        "{track} - {target}.wav",
        "{track}_{target}.flac",
        "{track}.{target}.wav",
        "{track} ({target}).wav",
        "{track}_[{target}].wav",
        "1_{track}_({target}).wav",  # Ultimate Vocal Remover
        "test/{track} - {target}.wav",
        "{target}/{track}.wav",
        "test/{target}/{track}.wav",
    ],
)
def test_places(tmp_path: Path, pattern: str) -> None:
    names = {target: pattern.format(track=TRACK, target=target) for target in ("vocals", "bass")}
    write(tmp_path, *names.values())
    write(tmp_path, f"{TRACK} - piano.wav", "Another One - vocals.wav", "vocals.wav")
    assert found(tmp_path) == names


@pytest.mark.parametrize(
    "place", [f"{TRACK}.stem.mp4", f"test/{TRACK}.STEM.MP4", f"{TRACK}/x.stem.mp4"]
)
def test_stem_mp4(tmp_path: Path, place: str) -> None:
    write(tmp_path, place)
    assert found(tmp_path) == {"stem.mp4": place}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("no_vocals", "accompaniment"),
        ("No_Vocals", "accompaniment"),
        ("minus_vocals", "accompaniment"),
        ("no vocals", "accompaniment"),
        ("no-vocals", "accompaniment"),
        ("instrumental", "accompaniment"),
        ("Instrumental", "accompaniment"),
        ("accompaniment", "accompaniment"),
        ("no_drums", "no_drums"),
        ("minus_bass", "no_bass"),
        ("No_Other", "no_other"),
        ("residual", None),
        ("mixture", None),
        ("no_piano", None),
        ("novocals", None),
        ("vocals2", None),
        ("other_vocals", None),
    ],
)
def test_names_of_sums(tmp_path: Path, name: str, target: str | None) -> None:
    write(tmp_path / TRACK, "vocals.wav", f"{name}.wav")
    expected = {"vocals": f"{TRACK}/vocals.wav"}
    assert found(tmp_path) == expected | ({target: f"{TRACK}/{name}.wav"} if target else {})


def test_settings_decide_which_sums_are_targets(tmp_path: Path) -> None:
    write(tmp_path / TRACK, "vocals.wav", "no_vocals.wav", "no_drums.wav", "instrumental.wav")
    assert set(found(tmp_path, Settings(accompaniment=False))) == {"vocals", "no_drums"}
    assert set(found(tmp_path, Settings(("vocals", "instrumental")))) == {
        "vocals",
        "instrumental",
        "accompaniment",
    }
    assert set(found(tmp_path, Settings(("vocals", "accompaniment")))) == {
        "vocals",
        "accompaniment",
    }
    assert set(found(tmp_path, Settings(("vocals",)))) == {"vocals"}


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["no_vocals.wav", "accompaniment.flac"], "accompaniment.flac"),
        (["no_vocals.mp3", "instrumental.wav"], "instrumental.wav"),
        (["accompaniment.ogg", "accompaniment.wav", "accompaniment.mp3"], "accompaniment.wav"),
        (["accompaniment.aiff", "accompaniment.ogg"], "accompaniment.ogg"),
    ],
)
def test_one_of_several_files(tmp_path: Path, files: list[str], chosen: str) -> None:
    write(tmp_path / TRACK, *files)
    assert found(tmp_path) == {"accompaniment": f"{TRACK}/{chosen}"}


def test_other_files_are_ignored_and_named(tmp_path: Path) -> None:
    write(tmp_path / TRACK, "vocals.wav", "piano.wav", "mixture.wav", "notes.txt", "._vocals.wav")
    (estimates,) = find_estimates(tmp_path, "test", [TRACK], Settings().names).values()
    assert estimates.ignored == ("piano.wav",)


def test_a_track_whose_name_begins_another(tmp_path: Path) -> None:
    write(tmp_path, "A - vocals.wav", "A - B - vocals.wav", "Avocals.wav")
    estimates = find_estimates(tmp_path, "test", ["A", "A - B"], Settings().names)
    assert {track: each.files["vocals"].name for track, each in estimates.items()} == {
        "A": "A - vocals.wav",
        "A - B": "A - B - vocals.wav",
    }


def test_complement() -> None:
    stems = ("vocals", "drums", "no_bass")
    assert complement("accompaniment", stems) == "vocals"
    assert complement("no_drums", stems) == "drums"
    assert complement("vocals", stems) is None
    assert complement("no_bass", stems) is None, "a stem of its own"
    assert complement("no_piano", stems) is None
