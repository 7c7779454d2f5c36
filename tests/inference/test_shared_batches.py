"""Batches of chunks of several songs: full, equal to those of single songs, and never stuck."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from lightning_modules.inference.separation import SeparationSettings, separate_stream
from lightning_modules.inference.shared_batches import SharedBatches
from tests.helpers.separators import Half

SIZE = 4
SETTINGS = SeparationSettings(overlap=0.0, batch_size=SIZE)
CHUNK = 441  # of the separators without a network


class Recording(Half):
    """Records the sizes of batches, and refuses infinite chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __call__(self, mixture: Tensor) -> Tensor:
        self.sizes.append(len(mixture))
        if mixture.isinf().any():
            raise ValueError("infinite")
        return super().__call__(mixture) * torch.linspace(0, 1, mixture.shape[-1])


class Shared(Half):
    """A separator whose forward pass is another one's."""

    def __init__(self, forward: Callable[[Tensor], Tensor], segment_seconds: float = 0.01) -> None:
        super().__init__()
        self.forward, self.segment_seconds = forward, segment_seconds

    def __call__(self, mixture: Tensor) -> Tensor:
        return self.forward(mixture)


def separate(model: Half, blocks: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    return torch.cat([*separate_stream(model, blocks, settings=SETTINGS)], -1)


def separate_all(
    models: Sequence[Half], songs: Sequence[Iterator[Tensor]], batches: SharedBatches
) -> list[Tensor | Exception]:
    """Separate songs in threads, as many as can be used; models take turns."""

    def work(number: int) -> Tensor | Exception:
        try:
            with batches.song():
                return separate(models[number % len(models)], songs[number])
        except Exception as error:
            return error

    with ThreadPoolExecutor(batches.most_open) as pool:
        return list(pool.map(work, range(len(songs)), timeout=60))


def song(chunks: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, round(chunks * CHUNK), generator=generator)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(
    "chunks", [[1] * 12, [5, 7, 6, 5, 1], [0.3, 2.5, 9, 1, 1, 4], [11], [4, 4, 4]]
)
def test_batches_are_full_and_estimates_those_of_single_songs(
    chunks: list[float], at_once: int
) -> None:
    songs = [song(number, seed) for seed, number in enumerate(chunks)]
    expected = [separate(Recording(), [each]) for each in songs]
    model, batches = Recording(), SharedBatches(len(songs), at_once)
    shared = Shared(batches.share(model, SIZE))
    found = separate_all([shared], [iter([each]) for each in songs], batches)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Tensor)
        assert torch.allclose(one, other, atol=1e-6)
    numbers = [math.ceil(number) for number in chunks]
    assert sum(model.sizes) == sum(numbers)
    assert max(model.sizes) <= SIZE
    assert len(model.sizes) <= sum(math.ceil(number / SIZE) for number in numbers)
    if max(numbers) == 1:
        assert model.sizes == [SIZE] * (len(numbers) // SIZE)


def test_no_more_songs_are_open_than_fill_a_batch() -> None:
    opened: set[int] = set()
    most = 0
    lock = threading.Lock()

    def reading(number: int) -> Iterator[Tensor]:
        nonlocal most
        with lock:
            opened.add(number)
            most = max(most, len(opened))
        yield song(2, number)

    batches = SharedBatches(9)
    shared = Shared(batches.share(Recording(), SIZE))

    def work(number: int) -> None:
        with batches.song():
            separate(shared, reading(number))
            with lock:
                opened.discard(number)

    with ThreadPoolExecutor(batches.most_open) as pool:
        list(pool.map(work, range(9), timeout=60))
    assert 1 < most <= SIZE


def test_only_the_faulty_song_fails() -> None:
    """One cannot be read in its middle, and one makes the model fail."""

    def broken() -> Iterator[Tensor]:
        yield song(2.5)
        raise OSError("unreadable")

    infinite = song(3)
    infinite[0, -1] = torch.inf
    songs = [song(1, 1), song(3, 2), song(2, 3)]
    given = [iter([songs[0]]), broken(), iter([infinite]), iter([songs[1]]), iter([songs[2]])]
    batches = SharedBatches(len(given))
    found = separate_all([Shared(batches.share(Recording(), SIZE))], given, batches)
    assert [str(each) for each in found if isinstance(each, Exception)] == [
        "unreadable",
        "infinite",
    ]
    for one, each in zip((found[0], found[3], found[4]), songs, strict=True):
        assert isinstance(one, Tensor)
        assert torch.allclose(one, separate(Recording(), [each]), atol=1e-6)


def test_models_and_lengths_do_not_wait_for_each_other() -> None:
    batches = SharedBatches(10)
    lengths = [0.01, 0.02, 0.005]
    models = [Shared(batches.share(Recording(), SIZE), seconds) for seconds in lengths]
    given = [iter([song(1 + number % 3, number)]) for number in range(10)]
    found = separate_all(models, given, batches)
    assert all(isinstance(each, Tensor) for each in found)


def test_stopping_ends_waiting_songs() -> None:
    batches = SharedBatches(3)
    entered = threading.Event()
    interrupted: list[int] = []

    def open_song(blocks: Iterator[Tensor]) -> None:
        try:
            with batches.song():
                entered.set()
                separate(shared, blocks)
        except KeyboardInterrupt:
            interrupted.append(1)

    shared = Shared(batches.share(Recording(), SIZE))
    ongoing = threading.Event()

    def slow() -> Iterator[Tensor]:
        ongoing.wait(30)
        yield song(1)

    threads = [threading.Thread(target=open_song, args=(slow(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    batches.stop()
    ongoing.set()
    for thread in threads:
        thread.join(30)
    assert len(interrupted) == 2
