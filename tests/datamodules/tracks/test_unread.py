"""Audio on disk that is not read is reported."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from datamodules.tracks.findings import Finding, summarise
from datamodules.tracks.layouts import STEMS, find_entries, subsets_of
from datamodules.tracks.unread import (
    find_unread,
    same_names_in_subsets,
    unread_in_root,
    unread_in_subset,
    unread_in_track,
)
from tests.helpers.tracks import touch, touch_track


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train/A", "train/B", "test/T"):
        touch_track(tmp_path / name, (*STEMS, "mixture"))
    return tmp_path


def findings_in(root: Path) -> list[Finding]:
    findings = unread_in_root(root)
    entries = []
    for subset in subsets_of(root):
        found = find_entries(root, subset)
        findings += unread_in_subset(root, subset, found)
        for entry in (entry for entry in found if not entry.is_stem_file):
            findings += unread_in_track(entry, entry.find(STEMS), STEMS)
        entries += found
    return findings + same_names_in_subsets(entries)


def test_nothing_is_told_about_good_data(root: Path) -> None:
    touch(root, "README.md", ".DS_Store", "docs/a.pdf", "train/list.csv", "train/A/info.json")
    touch(root, "__MACOSX/train/A/._vocals.wav", "@eaDir/x.wav", ".hidden/x.wav")
    assert findings_in(root) == []


@pytest.mark.parametrize(
    ("files", "kind", "where", "text"),
    [
        (["dev/X/a.wav"], "unread-folder", "dev", "such as X/a.wav"),
        (["extra/x.mp3"], "unread-folder", "extra", "such as x.mp3"),
        (["Train/C/bass.wav"], "unread-folder", "Train", "differs from train, which is read"),
        (["valid/V/bass.wav", "val/W/bass.wav"], "unread-folder", "val", "such as W/bass.wav"),
        (["x.WAV"], "unread-file", "x.WAV", "not in the folder of a track"),
        (["train/x.flac"], "unread-file", "train/x.flac", "not in the folder of a track"),
        (["train/a.stem.mp4"], "unread-file", "train/a.stem.mp4", "a folder of the same name is"),
        (["train/A/guitar.wav"], "unread-file", "train/A", "audio that is not read: guitar.wav"),
        (["train/A/vocals.flac"], "unread-file", "train/A", "in another format: vocals.flac"),
        (["train/A/raw/take 1.wav"], "unread-file", "train/A", "raw/take 1.wav"),
        (["train/Album/N/bass.wav"], "unread-folder", "train/Album", "folders below: N/bass.wav"),
        (["train/empty/notes.txt"], "no-audio", "train/empty", "skipped"),
        (["train/A/Vocals.wav"], "same-name", "train/A/Vocals.wav", "differs from vocals.wav"),
        (["train/a/bass.wav"], "same-name", "train/a", "differs from A"),
        (["test/a.stem.mp4"], "same-name", "test/a.stem.mp4", "has the name of train/A"),
    ],
)  # fmt: skip
def test_findings(root: Path, files: list[str], kind: str, where: str, text: str) -> None:
    touch(root, *files)
    (finding,) = findings_in(root)
    assert (finding.name, finding.where) == (kind, str(root / where))
    assert text in finding.finding
    assert finding.severity == ("warning" if kind == "same-name" else "note")
    assert finding.remedy


def test_unicode_forms_of_one_name(root: Path) -> None:
    for form in ("NFC", "NFD"):
        touch_track(root / "train" / normalize(form, "Beyoncé"))
    (finding,) = findings_in(root)
    assert "in letter case or Unicode form alone; both are read" in finding.finding


def test_links_to_a_track(root: Path) -> None:
    (root / "elsewhere/C").mkdir(parents=True)
    touch_track(root / "elsewhere/C")
    (root / "train/C").symlink_to("../elsewhere/C")
    assert not unread_in_subset(root, "train", find_entries(root, "train"))
    (root / "train/Z").symlink_to("A")
    (finding,) = unread_in_subset(root, "train", find_entries(root, "train"))
    assert (finding.name, finding.where) == ("same-name", str(root / "train/Z"))
    assert "is the same folder or file as A, by a link" in finding.finding


def test_folders_of_tracks_without_subsets(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    touch_track(root / "A")
    touch_track(root / "valid/V")
    assert findings_in(root) == []
    touch(root, "x.wav", "Album/N/bass.wav")
    assert [finding.name for finding in findings_in(root)] == ["unread-folder", "unread-file"]


def test_dsd100(tmp_path: Path) -> None:
    for part in ("Dev", "Test"):
        touch_track(tmp_path / "Sources" / part / f"{part} 1")
        touch(tmp_path / "Mixtures" / part / f"{part} 1", "mixture.wav")
    assert findings_in(tmp_path) == []
    touch(tmp_path, "Sources/More/N/bass.wav")
    (finding,) = findings_in(tmp_path)
    assert finding.where == str(tmp_path / "Sources/More")


def test_a_summary_has_a_line_for_each_kind(root: Path) -> None:
    touch(root, *(f"train/{number}.wav" for number in range(50)), "dev/X/a.wav")
    assert find_unread(root) == findings_in(root)
    folder, files = summarise(find_unread(root))
    assert folder.startswith(f"note: {root}/dev: holds audio that is not read")
    assert files.endswith("(49 more of this kind)")
