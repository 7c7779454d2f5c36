"""Excerpts, clips and pictures of a validation."""

from __future__ import annotations

import torch

from lightning_modules.callbacks.samples import fullest_excerpt


def test_the_excerpt_is_where_most_sources_sound() -> None:
    sources = torch.zeros(3, 2, 1000)
    assert fullest_excerpt(sources, 200, 10) == 400, "of silence, the middle"
    sources[0, :, :] = 0.5
    sources[1, 1, 100:400] = -0.1
    sources[2, 0, 250:900] = 0.3
    sources[2, 0, :100] = 1e-3  # noise, 50 dB below
    # Both others sound from 250 to 400; the most central excerpt around them is chosen.
    start = fullest_excerpt(sources, 150, 10)
    assert start == 250
    assert fullest_excerpt(sources, 100, 10) == 300
    assert fullest_excerpt(sources, 200, 10) in (200, 250)
    for longer in (1000, 2000):
        assert fullest_excerpt(sources, longer, 10) == 0
    assert fullest_excerpt(sources[..., :5], 200, 10) == 0
