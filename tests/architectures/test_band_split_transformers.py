"""Sizes of BS-RoFormer and Mel-Band RoFormer against the printed ones and published weights."""

from __future__ import annotations

import json

import pytest
from torch import Tensor

from lightning_modules.configuration.build import build_model
from tests.helpers.configs import settings_of

# Config, number of sources, and parameters as counted with `msst`, which include the rotary
# frequencies of both axes: as many as a head has features. The papers print 72.2, 82.8 and 93.4
# million for BS-RoFormer and 84.2 and 105 million for Mel-Band RoFormer with 6 and 12 blocks.
_COUNTS = [
    ("bs_roformer", 1, 72_173_340),
    ("bs_roformer/9_blocks", 1, 82_824_780),
    ("bs_roformer/12_blocks", 1, 93_476_220),
    ("bs_roformer/512_12", 1, 159_758_092),
    ("bs_roformer/384_8", 4, 131_704_164),
    ("bs_roformer/256_12", 4, 125_213_732),
    ("bs_roformer/256_12", 6, 174_656_564),
    ("mel_band_roformer", 1, 84_193_620),
    ("mel_band_roformer/9_blocks", 1, 94_847_364),
    ("mel_band_roformer/12_blocks", 1, 105_501_108),
    ("mel_band_roformer/kimberley", 1, 228_202_852),
    ("mel_band_roformer/384_12", 1, 251_869_636),
]


@pytest.mark.parametrize(("name", "sources", "expected"), _COUNTS)
def test_configs_have_the_published_sizes(
    monkeypatch: pytest.MonkeyPatch, name: str, sources: int, expected: int
) -> None:
    monkeypatch.setattr(Tensor, "uniform_", lambda weights, *_, **__: weights)  # slow
    stems = {f"source{number}": ["vocals"] for number in range(sources)}
    model = build_model(name, [f"--data.init_args.sources={json.dumps(stems)}"]).model
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted + settings_of(name)["model"]["head_features"] == expected
