"""The contract of all augmentations: reproducible, one example and one stem at a time."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from datamodules import augmentations
from datamodules.augmentations import (
    Augmentation,
    Gain,
    Mixup,
    Polarity,
    Remix,
    Speed,
    TimeShift,
)
from datamodules.musdb import MUSDBDataModule
from datamodules.randomness import generator

SAMPLES = 9999

WITH_FOLDER = ("RecordedNoise", "RecordedRoom", "Reverb")
# Arguments other than the folder that make more stems change than the defaults.
ARGUMENTS: dict[str, dict[str, Any]] = {"Pan": {"width": 1.0}, "TimeShift": {"seconds": 0.1}}
NAMES = [
    name for name in augmentations.__all__ if not inspect.isabstract(getattr(augmentations, name))
]


def make(name: str, folder: Path, probability: float | dict[str, float]) -> Augmentation:
    arguments = ARGUMENTS.get(name, {}) | ({"folder": str(folder)} if name in WITH_FOLDER else {})
    made: Augmentation = getattr(augmentations, name)(**arguments, probability=probability)
    return made


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short stereo recording, and a mono one at another rate that is longer than a crop."""
    folder = tmp_path_factory.mktemp("recordings")
    random = np.random.default_rng(0)
    for name, rate, shape in (("a.wav", 44100, (3000, 2)), ("b.flac", 48000, (20000, 1))):
        fading = np.exp(-np.arange(shape[0]) / 1000)[:, None]
        soundfile.write(folder / name, 0.3 * fading * random.standard_normal(shape), rate)
    return folder


@pytest.fixture(params=NAMES)
def augmentation(request: pytest.FixtureRequest, recordings: Path) -> Augmentation:
    """Each class, with a probability at which most stems change and some do not."""
    return make(request.param, recordings, 0.7)


def music(examples: int, seed: int = 0) -> Tensor:
    """Broadband signals, different in each stem and channel, shape (B, 4, 2, SAMPLES)."""
    random = torch.Generator().manual_seed(seed)
    steps = torch.randn(examples, 4, 2, SAMPLES, generator=random)
    return 0.3 * steps + 0.1 * torch.sin(torch.cumsum(0.05 * steps + 0.1, -1))


def draws(augmentation: Augmentation, indices: range) -> Tensor:
    return torch.from_numpy(
        np.stack([augmentation.draw(generator(3, 2, 0, index), 4) for index in indices])
    )


# ----------------------------------------------------------------- all classes


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


def test_stems_augmented_together_equal_stems_augmented_alone(augmentation: Augmentation) -> None:
    augmentation.probability = 1.0
    stems, parameters = music(2), draws(augmentation, range(2))
    before = stems.clone()
    result = augmentation(stems, parameters)
    assert torch.equal(stems, before)
    assert result.untyped_storage().data_ptr() != stems.untyped_storage().data_ptr()
    for number in range(4):
        single = parameters.clone()
        single.view(2, 4, -1)[:, np.arange(4) != number, 0] = augmentation.neutral
        alone = augmentation(stems, single)
        assert torch.allclose(alone[:, number], result[:, number], rtol=0, atol=1e-6)


def test_example_does_not_depend_on_its_batch(augmentation: Augmentation) -> None:
    if isinstance(augmentation, Mixup | Remix):
        pytest.skip("it joins stems of several examples")
    stems, parameters = music(4), draws(augmentation, range(4))
    whole = augmentation(stems, parameters)
    for example in range(4):
        share = slice(example, example + 1)
        alone = augmentation(stems[share], parameters[share])
        # FFTs of several rows may round differently than those of one.
        assert torch.allclose(alone, whole[share], rtol=0, atol=1e-6)


def test_stems_do_not_leak_into_each_other(augmentation: Augmentation) -> None:
    stems = torch.zeros(4, 4, 2, SAMPLES)
    stems[:, 2] = music(4)[:, 2]
    result = augmentation(stems, draws(augmentation, range(4)))
    assert not result[:, [0, 1, 3]].any()
    # With all stems present, the others do not depend on stem 2.
    stems = music(4)
    result = augmentation(stems, draws(augmentation, range(4)))
    stems[:, 2] = music(4, seed=1)[:, 2]
    other = augmentation(stems, draws(augmentation, range(4)))
    assert torch.allclose(result[:, [0, 1, 3]], other[:, [0, 1, 3]], rtol=0, atol=1e-6)


def test_silence_stays_silent_in_very_short_crops(augmentation: Augmentation) -> None:
    for samples in (1, 7):
        result = augmentation(torch.zeros(4, 4, 2, samples), draws(augmentation, range(4)))
        assert result.shape == (4, 4, 2, samples)
        assert not result.any()


def test_configs_name_classes_in_the_package(recordings: Path) -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--augmentations", type=list[Augmentation])
    given = []
    for name in NAMES:
        arguments: dict[str, Any] = {"probability": {"drums": 0.25}}
        if name in WITH_FOLDER:
            arguments["folder"] = str(recordings)
        given.append({"class_path": f"datamodules.augmentations.{name}", "init_args": arguments})
    parsed = parser.parse_args([f"--augmentations={json.dumps(given)}"])
    made = parser.instantiate_classes(parsed).augmentations
    assert [type(augmentation).__name__ for augmentation in made] == NAMES
    assert all(augmentation.probability == {"drums": 0.25} for augmentation in made)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_result_equals_cpu_result(augmentation: Augmentation) -> None:
    stems, parameters = music(4), draws(augmentation, range(4))
    result = augmentation(stems, parameters)
    for where in ("cpu", "cuda"):
        on_device = augmentation(stems.cuda(), parameters.to(where))
        assert on_device.is_cuda
        assert (on_device.cpu() - result).square().mean().sqrt() < 1e-5 * result.std()


@pytest.mark.parametrize("name", NAMES)
def test_probability_must_be_a_probability_of_a_known_stem(name: str, recordings: Path) -> None:
    with pytest.raises(ValueError, match=r"probability is 1\.5.*0 to 1"):
        make(name, recordings, 1.5)
    with pytest.raises(ValueError, match=r"probability of drums is -1.*0 to 1"):
        make(name, recordings, {"drums": -1.0})
    with pytest.raises(ValueError, match=r"'voice'.*vocals, drums, bass, other"):
        make(name, recordings, {"voice": 0.5})
    chosen = make(name, recordings, {"bass": 1.0})
    parameters = chosen.draw(generator(0, 2, 0, 0), 4).reshape(4, -1)[:, 0]
    assert (parameters[[0, 1, 3]] == chosen.neutral).all()
    assert parameters[2] != chosen.neutral


# ----------------------------------------------------------------- probability


def applied_frequencies(augmentation: Augmentation, stems: int = 4) -> npt.NDArray[np.float64]:
    drawn = [augmentation.draw(generator(0, 2, 0, index), stems) for index in range(4000)]
    applied: npt.NDArray[np.float64] = np.mean(np.array(drawn) != augmentation.neutral, 0)
    return applied


def test_each_stem_is_augmented_with_its_probability() -> None:
    wanted = {"vocals": 0.2, "drums": 1.0, "other": 0.6}
    assert np.allclose(applied_frequencies(Gain(probability=0.3)), 0.3, atol=0.03)
    assert np.allclose(applied_frequencies(Gain(probability=wanted)), [0.2, 1, 0, 0.6], atol=0.03)


def test_probability_per_stem_needs_the_four_stems() -> None:
    with pytest.raises(ValueError, match=r"per stem for vocals.*number of stems is 2.*one number"):
        Polarity({"vocals": 0.5}).draw(generator(0, 2, 0, 0), 2)


def test_together_draws_once_for_all_stems() -> None:
    drawn = [Speed(probability=0.5).draw(generator(0, 2, 0, n), 4) for n in range(100)]
    assert all((row == row[0]).all() for row in drawn)
    assert 30 < sum(row[0] != 0 for row in drawn) < 70
    apart = Speed(probability=1.0, together=False).draw(generator(0, 2, 0, 0), 4)
    assert len(set(apart.tolist())) == 4


def test_data_module_sets_the_sample_rate() -> None:
    made: list[Augmentation] = [Gain(), TimeShift()]
    assert TimeShift().sample_rate == 44100
    MUSDBDataModule(sample_rate=16000, augmentations=made)
    assert [augmentation.sample_rate for augmentation in made] == [16000, 16000]


# -------------------------------------------------------------- invalid arguments


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Gain", {"lowest_db": 3.0, "highest_db": 2.0}, "3.*above.*2"),
        ("Gain", {"lowest_db": -math.inf}, "finite"),
        ("Pan", {"width": 0.0}, "width is 0"),
        ("Pan", {"width": 1.5}, r"width is 1\.5"),
        ("TimeShift", {"seconds": 0.0}, "seconds is 0"),
        ("SoftClip", {"lowest_db": 13.0}, "13.*above.*12"),
        ("Limiter", {"lowest_db": 0.0}, "0.*above.*-3"),
        ("Limiter", {"lookahead_seconds": -1.0}, "lookahead_seconds is -1"),
        ("Limiter", {"release_db_per_second": 0.0}, "release_db_per_second is 0"),
        ("PeakingEqualizer", {"lowest_hz": 0.0}, "lowest_hz is 0.*above 0"),
        ("PeakingEqualizer", {"lowest_q": 0.0}, "lowest_q is 0.*above 0"),
        ("LowShelf", {"lowest_db": 10.0}, "lowest_db 10.*above"),
        ("HighShelf", {"lowest_hz": 3e4}, "lowest_hz 30000.*above"),
        ("BandStop", {"lowest_octaves": 0.0}, "lowest_octaves is 0"),
        ("GaussianNoise", {"lowest_db": 60.0}, "lowest_db 60.*above"),
        ("Repitch", {"semitones": 13}, "semitones is 13"),
        ("Repitch", {"tempo_percent": 100.0}, "tempo_percent is 100"),
        ("Repitch", {"tempo_deviation_percent": -1.0}, "deviation_percent is -1"),
        ("Speed", {"semitones": -1.0}, "semitones is -1"),
        ("Codec", {"formats": ["mp4"]}, "mp4.*mp3, ogg"),
        ("Codec", {"formats": []}, "formats is"),
        ("Codec", {"lowest_kbps": 0.0}, "lowest_kbps is 0"),
        ("ShoeboxRoom", {"lowest_seconds": 0.0}, "lowest_seconds is 0.*: give a number above 0"),
        ("ShoeboxRoom", {"highest_metres": 3.0}, r"highest_metres is 3\.0.*distance up to 2"),
        ("ShoeboxRoom", {"rooms": 0}, "rooms is 0"),
    ],
)
def test_invalid_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(augmentations, name)(**arguments)
