"""Stems that some tracks lack: silent, or unknown and left out of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.augmentations import Gain, Remix
from datamodules.batches import Batch, PartialBatch, StemBatch
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from tests.helpers.command_line import CSV, TINY, UNET, run
from tests.helpers.corpora import RATE, write_constant

FULL = {"vocals": 1, "drums": 2, "bass": 4, "other": 8}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """Half of the tracks have no bass; the other of these, and their mixture, contain it."""
    write_track(tmp_path / "half/train/A", FULL)
    write_track(tmp_path / "half/train/B", {name: 16 * value for name, value in FULL.items()})
    write_track(tmp_path / "half/train/C", {"vocals": 256, "drums": 512, "mixture": 4096})
    write_track(tmp_path / "half/train/D", {"vocals": 1024, "drums": 2048, "other": 8192})
    write_track(tmp_path / "half/valid/V", {"vocals": 3, "drums": 5, "mixture": 15})
    write_track(tmp_path / "half/valid/W", FULL)
    return tmp_path / "half"


def write_track(folder: Path, values: dict[str, int]) -> None:
    for name, value in values.items():
        write_constant(folder / f"{name}.wav", value)


def load(root: Path, **settings: Any) -> MUSDBDataModule:
    data = MUSDBDataModule(
        str(root),
        **{
            "sample_rate": RATE,
            "segment_seconds": 0.1,
            "batch_size": 8,
            "examples_per_epoch": 64,
            "num_workers": 0,
            **settings,
        },
    )
    data.setup("fit")
    return data


def examples(data: MUSDBDataModule) -> list[tuple[int, list[int], list[bool]]]:
    """Values of the mixture and the targets, and which are known, of each example of an epoch."""
    found = []
    for batch in data.train_dataloader():
        ready = data.on_after_batch_transfer(StemBatch(batch.stems.clone(), batch.positions), 0)
        known = ready.known
        if known is None:
            known = torch.ones(ready.targets.shape[:2], dtype=torch.bool)
        for mixture, targets, each in zip(ready.mixture, ready.targets, known, strict=True):
            found.append((values(mixture)[0], values(targets), each.tolist()))
    return found


def values(waveforms: Tensor) -> list[int]:
    flat = (waveforms * 2**15).round().int().reshape(-1, *waveforms.shape[-2:]).flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def test_songs_with_unknown_stems(half: Path) -> None:
    """The mixture has everything, and the loss the known stems."""
    found = examples(load(half, missing_as_unknown=True, mix_probability=0.0))
    kinds = {(mixture, *targets, *known) for mixture, targets, known in found}
    assert kinds == {
        (15, 1, 2, 4, 8, True, True, True, True),
        (240, 16, 32, 64, 128, True, True, True, True),
        (4096, 256, 512, 0, 0, True, True, False, False),
        (1024 + 2048 + 8192, 1024, 2048, 0, 0, True, True, False, False),
    }


def test_mixed_examples_draw_stems_from_tracks_that_have_them(half: Path) -> None:
    found = examples(load(half, missing_as_unknown=True, mix_probability=1.0))
    assert all(all(known) and sum(targets) == mixture for mixture, targets, known in found)
    drawn = [set(stem) for stem in zip(*(targets for _, targets, _ in found), strict=True)]
    assert drawn == [{1, 16, 256, 1024}, {2, 32, 512, 2048}, {4, 64}, {8, 128}]


def test_a_stem_that_no_track_has(half: Path) -> None:
    """The remainder of one track takes the place of what no track has."""
    for name in ("A", "B"):
        for stem in FULL:
            (half / "train" / name / f"{stem}.wav").unlink()
    found = examples(load(half, missing_as_unknown=True, mix_probability=1.0))
    assert {tuple(known) for _, _, known in found} == {(True, True, False, False)}
    rest = {mixture - sum(targets) for mixture, targets, _ in found}
    assert rest == {4096 - 256 - 512, 8192}


def test_missing_stems_as_silence(half: Path) -> None:
    data = load(half, missing_as_silence=True, mix_probability=1.0)
    found = examples(data)
    assert all(sum(targets) == mixture for mixture, targets, _ in found)
    assert {targets[2] for _, targets, _ in found} == {0, 4, 64}
    assert data.trainer is None


def test_sources_of_several_stems_are_known_if_all_are(half: Path) -> None:
    sources = {"vocals": ["vocals"], "accompaniment": ["drums", "bass", "other"]}
    found = examples(load(half, missing_as_unknown=True, mix_probability=0.0, sources=sources))
    assert {known[1] for mixture, _, known in found if mixture > 240} == {False}


def test_validation_crops_and_whole_tracks(half: Path) -> None:
    data = load(half, missing_as_unknown=True, validation_crops_per_track=1)
    crops, tracks = data.val_dataloader()
    (batch,) = [data.on_after_batch_transfer(batch, 0) for batch in crops]
    assert isinstance(batch, PartialBatch)
    assert batch.known.tolist() == [[True, True, False, False], [True] * 4]
    assert values(batch.mixture) == [15, 15]
    assert values(batch.targets) == [3, 5, 0, 0, 1, 2, 4, 8]
    first = next(iter(tracks))
    assert values(first.targets) == [3, 5, 0, 0]  # silent references have no scores


def test_augmentations_with_unknown_stems(half: Path) -> None:
    settings = {"missing_as_unknown": True, "mix_probability": 0.0}
    doubled = Gain(lowest_db=20 * 0.30103, highest_db=20 * 0.30103)
    plain, louder = load(half, **settings), load(half, **settings, augmentations=[doubled])
    for (_, before, known), (mixture, after, _) in zip(
        examples(plain), examples(louder), strict=True
    ):
        assert after == [2 * value for value in before]
        if not all(known):
            assert mixture - sum(after) in (4096 - 256 - 512, 8192)  # the remainder is plain
    with pytest.raises(DataError, match=r"Remix exchanges stems .* remove it from augmentations"):
        load(half, **settings, augmentations=[Remix()])
    with pytest.raises(DataError, match="missing_as_silence and missing_as_unknown are both set"):
        load(half, missing_as_unknown=True, missing_as_silence=True)


def test_nothing_unknown_gives_plain_batches(half: Path) -> None:
    for name in ("C", "D"):
        write_track(half / "train" / name, FULL)
    data = load(half, missing_as_unknown=True)
    batch = next(iter(data.train_dataloader()))
    assert type(data.on_after_batch_transfer(batch, 0)) is Batch
    assert batch.stems.shape[1] == 4


@pytest.mark.parametrize(
    "stems",
    [
        ["vocals", "drums", "bass", "guitar", "piano", "other"],
        ["kick", "snare", "hihat"],
        ["speech", "music", "effects"],
    ],
)
def test_any_stems(tmp_path: Path, stems: Sequence[str]) -> None:
    for number, name in enumerate(("A", "B", "C")):
        write_track(tmp_path / "train" / name, dict.fromkeys(stems, 1 + number))
    (tmp_path / "train/A" / f"{stems[0]}.wav").unlink()
    data = load(tmp_path, stems=list(stems), sources=list(stems), missing_as_unknown=True)
    assert len(examples(data)[0][1]) == len(stems)


@pytest.mark.slow
def test_training_with_unknown_stems(half: Path, tmp_path: Path) -> None:
    settings = ["--data.init_args.segment_seconds=0.1", "--data.init_args.missing_as_unknown=true"]
    root = f"--data.init_args.root={half}"
    assert run("fit", *UNET, *TINY, *CSV, root, f"--run_dir={tmp_path / 'run'}", *settings) == 0
