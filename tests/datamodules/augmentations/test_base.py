"""Augmentations: exact values, and never from one stem into another."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from datamodules.augmentations import codec, dynamics, filters, noise, repitch
from datamodules.augmentations.base import Augmentation
from datamodules.augmentations.simple import (
    ChannelSwap,
    Gain,
    Mono,
    Pan,
    Polarity,
    Remix,
    Silence,
    TimeShift,
)
from datamodules.musdb import MUSDBDataModule
from datamodules.randomness import generator

STEMS = torch.arange(16.0).reshape(2, 2, 2, 2) + 1  # (B, stems, C, T)
SAMPLE_RATE = 44100
SAMPLES = 9999

# Each class, so that most stems change and some do not.
ALL: dict[str, Callable[[Path], Augmentation]] = {
    "Gain": lambda _: Gain(probability=0.7),
    "ChannelSwap": lambda _: ChannelSwap(0.7),
    "Polarity": lambda _: Polarity(0.7),
    "Mono": lambda _: Mono(0.7),
    "Silence": lambda _: Silence(0.7),
    "Pan": lambda _: Pan(1.0, probability=0.7),
    "TimeShift": lambda _: TimeShift(0.1, probability=0.7),
    "Remix": lambda _: Remix(0.7),
    "SoftClip": lambda _: dynamics.SoftClip(probability=0.7),
    "Limiter": lambda _: dynamics.Limiter(probability=0.7),
    "PeakingEqualizer": lambda _: filters.PeakingEqualizer(probability=0.7),
    "LowShelf": lambda _: filters.LowShelf(probability=0.7),
    "HighShelf": lambda _: filters.HighShelf(probability=0.7),
    "BandStop": lambda _: filters.BandStop(probability=0.7),
    "Reverb": lambda folder: filters.Reverb(str(folder), probability=0.7),
    "GaussianNoise": lambda _: noise.GaussianNoise(probability=0.7),
    "ColouredNoise": lambda _: noise.ColouredNoise(probability=0.7),
    "RecordedNoise": lambda folder: noise.RecordedNoise(str(folder), probability=0.7),
    "Repitch": lambda _: repitch.Repitch(probability=0.7),
    "Speed": lambda _: repitch.Speed(probability=0.7),
    "Codec": lambda _: codec.Codec(probability=0.7),
}


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stereo and a mono recording of unlike rates, shorter than the crop and longer."""
    folder = tmp_path_factory.mktemp("recordings")
    random = np.random.default_rng(0)
    for name, rate, shape in (("a.wav", 44100, (3000, 2)), ("b.flac", 48000, (20000, 1))):
        fading = np.exp(-np.arange(shape[0]) / 1000)[:, None]
        soundfile.write(folder / name, 0.3 * fading * random.standard_normal(shape), rate)
    return folder


@pytest.fixture(params=ALL)
def augmentation(request: pytest.FixtureRequest, recordings: Path) -> Augmentation:
    return ALL[request.param](recordings)


def music(examples: int, seed: int = 0) -> Tensor:
    """Something with all frequencies, levels and channels unlike, shape (B, 4, 2, SAMPLES)."""
    random = torch.Generator().manual_seed(seed)
    steps = torch.randn(examples, 4, 2, SAMPLES, generator=random)
    return 0.3 * steps + 0.1 * torch.sin(torch.cumsum(0.05 * steps + 0.1, -1))


def draws(augmentation: Augmentation, indices: range) -> Tensor:
    return torch.from_numpy(
        np.stack([augmentation.draw(generator(3, 2, 0, index), 4) for index in indices])
    )


# ----------------------------------------------------------------- all classes


def test_every_class_is_tested_here() -> None:
    modules = [sys.modules[Augmentation.__module__], codec, dynamics, filters, noise, repitch]
    found = {
        name
        for module in modules
        for name, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Augmentation) and not inspect.isabstract(value)
    }
    assert {name for name in found if name[0] != "_"} == set(ALL)


def test_result_is_finite_reproducible_and_leaves_the_input_alone(
    augmentation: Augmentation,
) -> None:
    stems = music(4)
    before = stems.clone()
    parameters = draws(augmentation, range(4))
    result = augmentation(stems, parameters)
    assert torch.equal(stems, before)
    assert result.shape == stems.shape
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert torch.equal(result, augmentation(stems, draws(augmentation, range(4))))
    assert result.data_ptr() != stems.data_ptr()
    changed = (result != stems).flatten(2).any(2)
    assert changed.any()
    if not isinstance(augmentation, Remix):
        neutral = parameters.reshape(4, 4, -1)[..., 0] == augmentation.neutral
        assert not changed[neutral].any()
        assert neutral.any()


def test_all_stems_at_once_are_augmented_like_each(augmentation: Augmentation) -> None:
    augmentation.probability = 1.0
    stems, parameters = music(2), draws(augmentation, range(2))
    before = stems.clone()
    result = augmentation(stems, parameters)
    assert torch.equal(stems, before)
    assert result.untyped_storage().data_ptr() != stems.untyped_storage().data_ptr()
    for number in range(4):
        # The others rest: their first parameter is neutral.
        resting = parameters.clone()
        resting.view(2, 4, -1)[:, np.arange(4) != number, 0] = augmentation.neutral
        alone = augmentation(stems, resting)
        assert torch.allclose(alone[:, number], result[:, number], rtol=0, atol=1e-6)


def test_example_does_not_depend_on_its_batch(augmentation: Augmentation) -> None:
    if isinstance(augmentation, Remix):
        pytest.skip("Remix is about the batch")
    stems, parameters = music(4), draws(augmentation, range(4))
    whole = augmentation(stems, parameters)
    for example in range(4):
        share = slice(example, example + 1)
        alone = augmentation(stems[share], parameters[share])
        # Transforms of many rows at once may round otherwise than those of one.
        assert torch.allclose(alone, whole[share], rtol=0, atol=1e-6)


def test_no_stem_gets_into_another(augmentation: Augmentation) -> None:
    stems = torch.zeros(4, 4, 2, SAMPLES)
    stems[:, 2] = music(4)[:, 2]
    result = augmentation(stems, draws(augmentation, range(4)))
    assert not result[:, [0, 1, 3]].any()
    # Also where the others sound: what they become has nothing to do with stem 2.
    stems = music(4)
    result = augmentation(stems, draws(augmentation, range(4)))
    stems[:, 2] = music(4, seed=1)[:, 2]
    other = augmentation(stems, draws(augmentation, range(4)))
    assert torch.allclose(result[:, [0, 1, 3]], other[:, [0, 1, 3]], rtol=0, atol=1e-6)


def test_silence_and_very_short_crops_are_borne(augmentation: Augmentation) -> None:
    for samples in (1, 7):
        result = augmentation(torch.zeros(4, 4, 2, samples), draws(augmentation, range(4)))
        assert result.shape == (4, 4, 2, samples)
        assert not result.any()


def test_configs_name_them_by_class_path(recordings: Path) -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--augmentations", type=list[Augmentation])
    given = []
    for name, make in ALL.items():
        arguments: dict[str, Any] = {"probability": {"drums": 0.25}}
        if name in ("Reverb", "RecordedNoise"):
            arguments["folder"] = str(recordings)
        if name == "Codec":
            arguments["formats"] = ["ogg"]
        module = type(make(recordings)).__module__
        given.append({"class_path": f"{module}.{name}", "init_args": arguments})
    parsed = parser.parse_args([f"--augmentations={json.dumps(given)}"])
    made = parser.instantiate_classes(parsed).augmentations
    assert [type(augmentation).__name__ for augmentation in made] == list(ALL)
    assert all(augmentation.probability == {"drums": 0.25} for augmentation in made)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_gives_what_the_cpu_gives(augmentation: Augmentation) -> None:
    stems, parameters = music(4), draws(augmentation, range(4))
    result = augmentation(stems, parameters)
    for where in ("cpu", "cuda"):
        on_device = augmentation(stems.cuda(), parameters.to(where))
        assert on_device.is_cuda
        assert (on_device.cpu() - result).square().mean().sqrt() < 1e-5 * result.std()


@pytest.mark.parametrize("name", sorted(ALL))
def test_probability_is_refused_unless_it_is_one(name: str, recordings: Path) -> None:
    kind = type(ALL[name](recordings))
    arguments = {"folder": str(recordings)} if name in ("Reverb", "RecordedNoise") else {}
    with pytest.raises(ValueError, match=r"probability is 1\.5.*0 to 1"):
        kind(**arguments, probability=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"probability of drums is -1.*0 to 1"):
        kind(**arguments, probability={"drums": -1.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'voice'.*vocals, drums, bass, other"):
        kind(**arguments, probability={"voice": 0.5})  # type: ignore[arg-type]
    chosen = kind(**arguments, probability={"bass": 1.0})  # type: ignore[arg-type]
    parameters = chosen.draw(generator(0, 2, 0, 0), 4).reshape(4, -1)[:, 0]
    assert (parameters[[0, 1, 3]] == chosen.neutral).all()
    assert parameters[2] != chosen.neutral


# ----------------------------------------------------------------- probability


def frequencies(augmentation: Augmentation, stems: int = 4) -> npt.NDArray[np.float64]:
    drawn = [augmentation.draw(generator(0, 2, 0, index), stems) for index in range(4000)]
    happens: npt.NDArray[np.float64] = np.mean(np.array(drawn) != augmentation.neutral, 0)
    return happens


def test_probability_holds_for_each_stem() -> None:
    wanted = {"vocals": 0.2, "drums": 1.0, "other": 0.6}
    assert np.allclose(frequencies(Gain(probability=0.3)), 0.3, atol=0.03)
    assert np.allclose(frequencies(Gain(probability=wanted)), [0.2, 1, 0, 0.6], atol=0.03)


def test_probability_by_name_needs_the_four_stems() -> None:
    with pytest.raises(ValueError, match=r"2 stems instead of vocals.*one number"):
        Polarity({"vocals": 0.5}).draw(generator(0, 2, 0, 0), 2)


def test_stems_together_share_one_draw() -> None:
    drawn = [repitch.Speed(probability=0.5).draw(generator(0, 2, 0, n), 4) for n in range(100)]
    assert all((row == row[0]).all() for row in drawn)
    assert 30 < sum(row[0] != 0 for row in drawn) < 70
    apart = repitch.Speed(probability=1.0, together=False).draw(generator(0, 2, 0, 0), 4)
    assert len(set(apart.tolist())) == 4


@pytest.mark.parametrize("augmentation", [ChannelSwap, Polarity])
def test_switch_happens_as_often_as_told(augmentation: type[ChannelSwap]) -> None:
    assert abs(augmentation(0.3).draw(generator(0, 2, 0, 0), 10_000).mean() - 0.3) < 0.02
    assert augmentation(0.0).draw(generator(0, 2, 0, 0), 100).sum() == 0
    assert augmentation(1.0).draw(generator(0, 2, 0, 0), 100).sum() == 100


def test_data_module_tells_its_sample_rate() -> None:
    augmentations: list[Augmentation] = [Gain(), TimeShift()]
    assert TimeShift().sample_rate == 44100
    MUSDBDataModule(sample_rate=16000, augmentations=augmentations)
    assert [augmentation.sample_rate for augmentation in augmentations] == [16000, 16000]


# ---------------------------------------------------------------- exact values


def test_gain_multiplies_each_stem() -> None:
    factors = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    result = Gain()(STEMS, factors)
    assert torch.equal(result[0, 1], STEMS[0, 1] * 2)
    assert torch.equal(result[1, 0], STEMS[1, 0] / 2)
    assert torch.equal(result[1, 1], torch.zeros(2, 2))


def test_gain_is_uniform_in_decibels() -> None:
    decibels = 20 * np.log10(Gain(-6.0, 2.0).draw(generator(0, 2, 0, 0), 10_000))
    assert decibels.min() >= -6.001
    assert decibels.max() <= 2.001
    assert abs(decibels.mean() + 2) < 0.1


def test_channel_swap_swaps_where_asked() -> None:
    result = ChannelSwap()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 0], STEMS[0, 0].flip(0))
    assert torch.equal(result[0, 1], STEMS[0, 1])
    assert torch.equal(result[1], STEMS[1])


def test_polarity_inverts_where_asked() -> None:
    result = Polarity()(STEMS, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 1], -STEMS[0, 1])
    assert torch.equal(result[0, 0], STEMS[0, 0])


def test_mono_averages_the_channels() -> None:
    result = Mono()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 0], torch.tensor([[2.0, 3.0], [2.0, 3.0]]))
    assert torch.equal(result[1], STEMS[1])


def test_silence_silences_where_asked() -> None:
    result = Silence()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert not result[0, 0].any()
    assert torch.equal(result[0, 1], STEMS[0, 1])


def test_pan_keeps_the_power() -> None:
    ones = torch.ones(1, 5, 2, 1)
    result = Pan()(ones, torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0]]))[0, :, :, 0]
    root = math.sqrt(2)
    left = [root, root * math.cos(math.pi / 8), 1.0, root * math.sin(math.pi / 8), 0.0]
    assert torch.allclose(result[:, 0], torch.tensor(left), atol=1e-7)
    assert torch.allclose(result[:, 1], torch.tensor(left[::-1]), atol=1e-7)
    assert torch.allclose(result.square().sum(1), torch.tensor(2.0))
    positions = Pan(0.3).draw(generator(0, 2, 0, 0), 1000)
    assert -0.3 <= positions.min() < -0.29
    assert 0.29 < positions.max() <= 0.3


def test_pan_needs_stereo() -> None:
    with pytest.raises(ValueError, match=r"stereo.*1 channels.*leave it out"):
        Pan()(torch.ones(1, 1, 1, 4), torch.tensor([[0.5]]))


def test_time_shift_moves_by_seconds() -> None:
    shift = TimeShift()
    shift.sample_rate = 100
    ramp = torch.arange(1.0, 6.0).expand(1, 4, 2, 5)
    result = shift(ramp, torch.tensor([[0.02, -0.0149, 0.0, 3.0]]))[0, :, 1]
    assert result.tolist() == [
        [0, 0, 1, 2, 3],
        [2, 3, 4, 5, 0],
        [1, 2, 3, 4, 5],
        [0, 0, 0, 0, 0],
    ]


def test_remix_gives_stems_by_the_order_of_their_keys() -> None:
    stems = torch.arange(12.0).reshape(4, 3, 1, 1)
    keys = torch.tensor([[0.9, 0.5, 0.0], [0.1, 0.0, 0.0], [0.5, 0.1, 0.7], [0.7, 0.9, 0.0]])
    result = Remix()(stems, keys)[:, :, 0, 0]
    # Smallest keys of the first stem: examples 1, 2, 3, 0. Example 1 keeps its second stem.
    assert result[:, 0].tolist() == [3, 6, 9, 0]
    assert result[:, 1].tolist() == [7, 4, 1, 10]
    assert result[:, 2].tolist() == [2, 5, 8, 11]


@pytest.mark.parametrize("examples", [1, 2, 5, 33])
def test_remix_keeps_all_stems_of_a_batch_of_any_size(examples: int) -> None:
    stems = torch.arange(examples * 4.0).reshape(examples, 4, 1, 1)
    for probability in (1.0, 0.5):
        result = Remix(probability)(stems, draws(Remix(probability), range(examples)))
        assert torch.equal(result.sort(0).values, stems)


# -------------------------------------------------------------- faulty settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polarity(1.5), r"1\.5.*0 to 1"),
        (lambda: Gain(3.0, 2.0), "3.*above.*2"),
        (lambda: Gain(-math.inf, 2.0), "finite"),
        (lambda: Pan(0.0), "width is 0"),
        (lambda: Pan(1.5), r"width is 1\.5"),
        (lambda: TimeShift(0.0), "seconds is 0"),
        (lambda: dynamics.SoftClip(3.0, 2.0), "3.*above.*2"),
        (lambda: dynamics.Limiter(0.0, -3.0), "0.*above.*-3"),
        (lambda: dynamics.Limiter(lookahead_seconds=-1.0), "lookahead_seconds is -1"),
        (lambda: dynamics.Limiter(release_db_per_second=0.0), "release_db_per_second is 0"),
        (lambda: filters.PeakingEqualizer(lowest_hz=0.0), "lowest_hz is 0.*above 0"),
        (lambda: filters.PeakingEqualizer(lowest_q=0.0), "lowest_q is 0.*above 0"),
        (lambda: filters.LowShelf(3.0, 2.0), "lowest_db 3.*above"),
        (lambda: filters.HighShelf(lowest_hz=3e4), "lowest_hz 30000.*above"),
        (lambda: filters.BandStop(0.0), "lowest_octaves is 0"),
        (lambda: noise.GaussianNoise(30.0, 20.0), "lowest_db 30.*above"),
        (lambda: repitch.Repitch(semitones=13), "semitones is 13"),
        (lambda: repitch.Repitch(tempo_percent=100.0), "tempo_percent is 100"),
        (lambda: repitch.Repitch(tempo_deviation_percent=-1.0), "deviation_percent is -1"),
        (lambda: repitch.Speed(semitones=-1.0), "semitones is -1"),
        (lambda: codec.Codec(["mp4"]), "mp4.*mp3, ogg"),
        (lambda: codec.Codec([]), "formats is"),
        (lambda: codec.Codec(lowest_kbps=0.0), "lowest_kbps is 0"),
    ],
)
def test_faulty_settings_are_refused(make: Callable[[], Augmentation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
