"""Overlap-add: windows, ends of the audio, and equality with independent computations."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from lightning_modules.inference.options import Edges, Window
from lightning_modules.inference.overlap_add import OverlapAdd, overlap_add, window_weights

LENGTH = 40


def positions(chunks: Tensor) -> Tensor:
    """Estimates (B, 1, C, T) that depend on the position in the chunk."""
    return (chunks * torch.linspace(0.5, 1.5, chunks.shape[-1]))[:, None]


def identity(chunks: Tensor) -> Tensor:
    return chunks[:, None].clone()


def joined(mixture: Tensor, settings: OverlapAdd, block: int = 1000) -> Tensor:
    blocks = mixture.split(block, -1)
    return torch.cat(list(overlap_add(positions, blocks, settings)), -1)[0]


@pytest.mark.parametrize("edges", get_args(Edges))
@pytest.mark.parametrize("window", get_args(Window))
def test_identity_is_exact(window: Window, edges: Edges) -> None:
    for samples in (1, 7, 39, 40, 41, 55, 81, 400):
        mixture = torch.randn(2, samples)
        for overlap in (0.0, 0.25, 0.5, 0.75, 0.9):
            settings = OverlapAdd(LENGTH, overlap, window, edges, batch_size=3)
            parts = list(overlap_add(identity, mixture.split(17, -1), settings))
            assert torch.equal(torch.cat(parts, -1)[0], mixture), (samples, overlap)


@pytest.mark.parametrize("edges", get_args(Edges))
@pytest.mark.parametrize("window", get_args(Window))
def test_blocks_and_batches_do_not_change_the_result(window: Window, edges: Edges) -> None:
    mixture = torch.randn(2, 333)
    whole = joined(mixture, OverlapAdd(LENGTH, 0.6, window, edges, 1))
    for block, batch_size in ((1, 2), (39, 5), (41, 1)):
        parts = joined(mixture, OverlapAdd(LENGTH, 0.6, window, edges, batch_size), block)
        assert torch.equal(parts, whole)


@pytest.mark.parametrize("samples", [25, 70, 80, 203])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("window", get_args(Window))
def test_estimates_are_averaged_with_the_windows_weights(
    window: Window, overlap: float, samples: int
) -> None:
    mixture = torch.randn(1, samples)
    settings = OverlapAdd(LENGTH, overlap, window)
    weights = window_weights(window, LENGTH, LENGTH - settings.hop).double() + 1e-12
    total, divisor = torch.zeros(samples + LENGTH).double(), torch.zeros(samples + LENGTH).double()
    start, padded = 0, torch.nn.functional.pad(mixture, (0, LENGTH))
    # With `mean`, all chunks that start in the mixture count, else those that add samples.
    covered = 0 if window == "mean" else LENGTH - settings.hop
    while True:
        estimate = positions(padded[None, :, start : start + LENGTH])[0, 0, 0]
        total[start : start + LENGTH] += weights * estimate
        divisor[start : start + LENGTH] += weights
        start += settings.hop
        if samples - start <= covered:
            break
    expected = (total / divisor)[:samples].float()
    assert torch.allclose(joined(mixture, settings)[0], expected, atol=1e-5)


def test_windows_have_their_definitions() -> None:
    crossfade = window_weights("crossfade", 10, 4)
    assert torch.allclose(crossfade[:4] + crossfade[6:], torch.ones(4))
    assert torch.equal(crossfade[4:6], torch.ones(2))
    assert window_weights("triangle", 5, 2).tolist() == pytest.approx(
        [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]
    )
    assert window_weights("triangle", 4, 2).tolist() == [0.5, 1.0, 1.0, 0.5]
    ramps = window_weights("ramps", 40, 20)
    assert ramps[:4].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert ramps[-4:].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert window_weights("mean", 3, 1).tolist() == [1, 1, 1]
    hann = window_weights("hann", 8, 4)
    assert torch.allclose(hann[:4] + hann[4:], torch.ones(4))


def recorded(mixture: Tensor, settings: OverlapAdd) -> list[list[float]]:
    """The chunks that the model gets, one channel."""
    seen: list[list[float]] = []

    def run(chunks: Tensor) -> Tensor:
        seen.extend(chunk[0].tolist() for chunk in chunks)
        return identity(chunks)

    list(overlap_add(run, [mixture], settings))
    return seen


def test_short_chunks_are_completed_as_the_edges_say() -> None:
    song = torch.arange(1.0, 7.0)[None]  # 6 samples, chunks of 4 at 0, 3
    assert recorded(song, OverlapAdd(4, 0.25)) == [[1, 2, 3, 4], [4, 5, 6, 0]]
    context = recorded(song, OverlapAdd(4, 0.25, edges="context"))
    assert context == [[1, 2, 3, 4], [4, 5, 6, 0]]
    context = recorded(song, OverlapAdd(4, 0.0, edges="context"))
    assert context == [[1, 2, 3, 4], [4, 5, 6, 0]]  # 5, 6 in the middle
    reflected = recorded(song, OverlapAdd(4, 0.5, edges="reflect"))
    assert reflected == [
        [3, 2, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 5, 4], [5, 4, 0, 0],
    ]  # fmt: skip


def test_a_song_shorter_than_a_chunk_is_in_its_middle_with_context() -> None:
    song = torch.tensor([[1.0, 2.0]])
    assert recorded(song, OverlapAdd(7, 0.25, edges="context")) == [[0, 0, 1, 2, 0, 0, 0]]
