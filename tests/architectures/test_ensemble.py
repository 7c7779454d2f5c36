"""Ensembles of separators: members with own settings, sources and rates; configs of ensembles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from lightning_modules.architectures.cascade import Cascade
from lightning_modules.architectures.ensemble import Ensemble
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.inference.separation import SeparationSettings, separate, separate_stream
from lightning_modules.inference.stem_files import separate_file
from tests.helpers.checkpoints import checkpoints, save
from tests.helpers.checkpoints import model as unet
from tests.helpers.separators import TWO, Gains

MIXTURE = torch.randn(2, 9011, generator=torch.Generator().manual_seed(0))


def gains(gain: float = 0.5, sources: list[str] = TWO, **arguments: Any) -> Gains:
    return Gains(sources, gain, **{"segment_seconds": 0.03, **arguments})


class Places(Gains):
    """Adds each sample's position in its chunk, so that estimates depend on the chunks."""

    def forward(self, mixture: Tensor) -> Tensor:
        return super().forward(mixture + torch.linspace(0, 1, mixture.shape[-1]))


def places(**arguments: Any) -> Places:
    return Places(TWO, 0.5, **{"segment_seconds": 0.03, **arguments})


DIFFERENT = (
    {"segment_seconds": 0.02, "overlap": 0.5, "overlap_window": "hann"},
    {"segment_seconds": 0.05, "shifts": 2, "chunks_at_once": 3, "normalise_mixture": True},
    {"circular_shifts": 3, "edges": "reflect", "test_time_augmentation": True},
    {"sample_rate": 22050, "audio_channels": 1, "postprocessing": {"softness": 2.0}},
)


def test_every_member_separates_with_its_own_settings() -> None:
    members = [places(**settings) for settings in DIFFERENT]
    alone = torch.stack([member.separate(MIXTURE, 44_100) for member in members])
    assert alone.std(0).mean() > 1e-3  # the settings matter
    found = Ensemble(members).separate(MIXTURE)
    assert torch.allclose(found, alone.mean(0), atol=1e-6)
    assert torch.allclose(
        Ensemble(members, combination="median").separate(MIXTURE), alone.quantile(0.5, 0), atol=1e-6
    )


def test_settings_can_be_changed_for_all_members() -> None:
    changes: dict[str, Any] = {"overlap": 0.75, "shifts": 1, "normalise_mixture": False}
    members = [places(**settings) for settings in DIFFERENT[:2]]
    alone = [
        separate(member, MIXTURE, settings=replace(member.separation_settings, **changes))
        for member in members
    ]
    expected = torch.stack(alone).mean(0)
    ensemble = Ensemble(members, settings=changes)
    assert torch.allclose(ensemble.separate(MIXTURE), expected, atol=1e-6)
    # Settings that know of no members are those of all of them.
    shared = SeparationSettings(overlap=0.75)
    found = separate(ensemble, MIXTURE, settings=shared)
    alone = [separate(member, MIXTURE, settings=shared) for member in members]
    assert torch.allclose(found, torch.stack(alone).mean(0), atol=1e-6)


def test_postprocessing_is_that_of_the_ensemble() -> None:
    settings = {"low_pass_hz": {"vocals": 1000.0}}
    member = gains(postprocessing={"low_pass_hz": 10.0})
    expected = gains(postprocessing=settings).separate(MIXTURE)
    found = Ensemble([member, member], settings={"postprocessing": settings}).separate(MIXTURE)
    assert torch.allclose(found, expected, atol=1e-6)


def test_sources_are_combined_from_the_members_that_have_them() -> None:
    members = [
        gains(1.0, ["vocals", "drums"]),
        gains(2.0, ["drums"]),
        gains(4.0, ["bass", "vocals"]),
    ]
    ensemble = Ensemble(members)
    assert ensemble.sources == ["vocals", "drums", "bass"]
    found = ensemble.separate(MIXTURE)
    for estimate, gain in zip(found, (2.5, 1.5, 4.0), strict=True):
        assert torch.allclose(estimate, gain * MIXTURE, atol=1e-5)
    selected = Ensemble(members, sources=["bass", "drums"])
    assert torch.allclose(selected.separate(MIXTURE), found[[2, 1]], atol=1e-6)
    # Both as one chunk, for crops.
    assert torch.allclose(selected(MIXTURE[None].repeat(2, 1, 1))[1], found[[2, 1]], atol=1e-5)


def test_weights_by_member_or_by_source() -> None:
    members = [gains(1.0), gains(2.0), gains(4.0)]
    assert torch.allclose(
        Ensemble(members, [1, 2, 1]).separate(MIXTURE)[0], 2.25 * MIXTURE, atol=1e-5
    )
    # As in a bag of models, each of which was fine-tuned for one source.
    bag = Ensemble(members, {"vocals": [0, 0, 1], "rest": [0, 3, 0]})
    found = bag.separate(MIXTURE)
    assert torch.equal(found[0], 4 * MIXTURE)
    assert torch.equal(found[1], 2 * MIXTURE)


def test_members_without_weight_are_not_run() -> None:
    class Failing(Gains):
        def forward(self, mixture: Tensor) -> Tensor:
            raise AssertionError

    ensemble = Ensemble([Failing(TWO), gains(2.0)], [0, 1], "max")
    assert torch.equal(ensemble.separate(MIXTURE)[0], 2 * MIXTURE)


def test_progress_adds_up_to_the_song_and_blocks_are_read_on_demand() -> None:
    samples = 200_000
    blocks = torch.zeros(2, samples).split(441, -1)
    read = 0

    def reading() -> Any:
        nonlocal read
        for block in blocks:
            read += block.shape[-1]
            yield block

    reports: list[int] = []
    ensemble = Ensemble([places(segment_seconds=0.02), places(segment_seconds=0.1)])
    settings = ensemble.separation_settings
    stream = separate_stream(ensemble, reading(), 44_100, settings, reports.append)
    received = 0
    for part in stream:
        received += part.shape[-1]
        assert read < received + 50_000
    assert received == samples == sum(reports)


def test_files_are_separated_and_silent_songs_too(tmp_path: Path) -> None:
    assert not [*separate_stream(Ensemble([gains(), gains(normalise_mixture=True)]), [])]
    song = tmp_path / "song.wav"
    soundfile.write(song, MIXTURE.T.numpy(), 44_100, "FLOAT")
    separate_file(Ensemble([gains(1.0), gains(2.0)]), song, tmp_path / "stems")
    found = soundfile.read(tmp_path / "stems/vocals.wav", dtype="float32")[0]
    assert torch.allclose(torch.from_numpy(found.T), 1.5 * MIXTURE, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"combination": "average"}, "combination is 'average': give one of mean, median"),
        ({"members": []}, "members is []: give a list of checkpoints"),
        ({"members": "a.ckpt"}, "members is 'a.ckpt': give a list"),
        ({"weights": [1]}, "weights of vocals are [1]: give a list of 2 numbers"),
        ({"weights": [1, -1]}, "numbers from 0 on, one for each member"),
        ({"weights": {"rest": ["1", 2]}}, "weights of rest are ['1', 2]"),
        (
            {"weights": {"vocal": [1, 1]}},
            "no member has the source 'vocal': they have rest, vocals",
        ),
        ({"sources": ["drums"]}, "no member has the source 'drums'"),
        ({"weights": [0, 0]}, "weights of vocals are 0 for all members"),
        ({"weights": [1, 2], "combination": "median"}, "or the combination mean"),
        ({"settings": {"overlaps": 0.5}}, "settings has no 'overlaps': give some of batch_size"),
        ({"settings": {"overlap": 1.5}}, "overlap is 1.5"),
    ],
)
def test_mistakes(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"give|expected|they have|overlap") as error:
        Ensemble(**{"members": [gains(), gains()], **arguments})
    assert words in str(error.value)


# ---------------------------------------------------------------- configs


def write(path: Path, class_name: str = "ensemble.Ensemble", **arguments: Any) -> Path:
    model = {"class_path": f"lightning_modules.architectures.{class_name}", "init_args": arguments}
    path.write_text(yaml.safe_dump({"model": model}))
    return path


def saved(tmp_path: Path, *settings: dict[str, Any]) -> list[str]:
    return [
        str(save(unet(**each), tmp_path / f"{number}.ckpt")) for number, each in enumerate(settings)
    ]


@pytest.mark.slow
def test_a_config_is_loaded_like_a_checkpoint(tmp_path: Path) -> None:
    paths = saved(tmp_path, {"channels": [4]}, {"segment_seconds": 0.3, "overlap": 0.5})
    mixture = 0.1 * MIXTURE
    alone: list[Tensor] = [load_separator(path).separate(mixture) for path in paths]
    inner = write(tmp_path / "ensemble.yaml", members=paths, weights=[3, 1])
    ensemble = load_separator(inner)
    assert isinstance(ensemble, SourceSeparator)
    assert not ensemble.training
    expected = (3 * alone[0] + alone[1]) / 4
    assert torch.allclose(ensemble.separate(mixture), expected, atol=1e-6)
    outer = write(tmp_path / "outer.yml", members=[str(inner), paths[0]], combination="max")
    found = load_separator(outer).separate(mixture)
    assert torch.allclose(found.abs(), torch.maximum(expected.abs(), alone[0].abs()), atol=1e-6)


@pytest.mark.slow
def test_a_cascade_is_loaded_from_a_config_and_may_be_a_member(tmp_path: Path) -> None:
    denoiser, separator = checkpoints(tmp_path)
    config = write(
        tmp_path / "cascade.yaml",
        "cascade.Cascade",
        denoiser=str(denoiser),
        separator=str(separator),
    )
    mixture = 0.1 * MIXTURE
    alone = [
        each.separate(mixture) for each in (Cascade(denoiser, separator), load_separator(separator))
    ]
    ensemble = Ensemble([config, separator])
    assert torch.allclose(ensemble.separate(mixture), torch.stack(alone).mean(0), atol=1e-6)


def test_mistakes_in_configs(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, {})
    gone = str(tmp_path / "gone.ckpt")
    config = tmp_path / "model.yaml"
    init: dict[str, Any]
    for name, init, words in (
        ("ensemble.Ensemble", {"members": [path, gone]}, f"{gone}: there is no such checkpoint"),
        ("ensemble.Ensemble", {"members": [str(config)]}, "model.yaml: "),
        ("ensemble.Ensemble", {"members": [path], "weight": 1}, "keyword argument 'weight'"),
        ("unet.UNet", {}, "is the config of a UNet, without weights; give the checkpoint"),
    ):
        with pytest.raises(CheckpointError) as error:
            load_separator(write(config, name, **init))
        assert words in str(error.value)
    for text, words in (
        ("model: {}", "has no model.class_path"),
        ("members: [a.ckpt]", "unknown key 'members'"),
        ("model: {class_path: os.system}", "from outside this package"),
        ("model: [", "not readable as YAML"),
    ):
        config.write_text(text)
        with pytest.raises(CheckpointError) as error:
            load_separator(config)
        assert words in str(error.value)
    with pytest.raises(CheckpointError, match=r"no\.yaml: there is no such checkpoint"):
        load_separator(tmp_path / "no.yaml")
