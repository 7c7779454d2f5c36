"""Arguments that an architecture refuses, and the message."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from tests.helpers.configs import class_of

TWO = {"sources": ["vocals", "rest"]}
ONE = {"sources": ["vocals"]}
NAN = float("nan")


def mmdense(part: str, **change: Any) -> dict[str, Any]:
    """Change a part of MMDenseNet's small settings."""
    settings: dict[str, Any] = copy.deepcopy(dict(class_of("mmdense_net").tiny))
    (settings["bands"][0] if part == "band" else settings[part]).update(change)
    return settings


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("bsrnn", {"blocks": 0}, "blocks 0.*>= 1"),
        ("bsrnn", {"norm_groups": 3}, "norm_groups is 3 with 8 features: use a divisor"),
        ("bsrnn", {"bands": "v8"}, "'v8': use v7, bass, drums or a list"),
        ("bsrnn", {"bands": {"bass": "bass"}}, "bands has bass, but the sources are vocals, rest"),
        ("bsrnn", {"bands": [200, 100]}, r"bands of vocals are \[200, 100\]: use increasing"),
        ("bsrnn", {"bands": {"rest": [0.0, 50.0]}}, r"bands of rest are \[0\.0, 50\.0\]"),
        ("bsrnn", {"bands": [NAN]}, "bands of vocals are .nan"),
        ("bsrnn", {"bands": [math.inf]}, "bands of vocals are .inf"),
        ("cdae", {"frames": 0}, "frames is 0.*>= 1"),
        ("cdae", {"filters": []}, r"filters \[\]"),
        ("cdae", {"kernel_size": [3]}, r"kernel_size \[3\].*\[frames, bins\]"),
        ("cdae", {"pools": [[3, 5, 1]]}, r"pools \[\[3, 5, 1\]\]"),
        ("cdae", {"filters": [4] * 3, "pools": [[1, 2]] * 2}, "2 pools with 3 hidden convolutions"),
        ("cdae", {"chunk_seconds": 0.0}, r"chunk_seconds is 0\.0: .* from 0\.0001"),
        ("conv_tasnet", {"form": "opera"}, "'opera': use music or speech"),
        ("conv_tasnet", {"mask": "softmax"}, "'softmax': use relu or sigmoid"),
        ("conv_tasnet", {"layers": 0}, "layers 0.*>= 1"),
        ("conv_tasnet", {"filters": 0}, "filters is 0.*>= 1"),
        ("conv_tasnet", {"filter_samples": 21}, "filter_samples is 21.*even"),
        ("conv_tasnet", {"filter_samples": 0}, "filter_samples is 0"),
        ("conv_tasnet", {"kernel": 2}, "kernel 2.*odd"),
        ("crosslinked_open_unmix", {"crosslinks": "sum"}, "'sum': use concatenate or average"),
        ("crosslinked_open_unmix", ONE, r"sources is \['vocals'\], and crosslinks need"),
        ("crosslinked_open_unmix", {"waveform_weight": -1.0}, r"waveform_weight is -1\.0"),
        ("crosslinked_open_unmix", {"waveform_weight": NAN}, "waveform_weight is nan"),
        ("demucs", {"channels": 0}, "channels is 0.*>= 1"),
        ("demucs", {"depth": 0}, "depth 0.*>= 1"),
        ("demucs", {"lstm_layers": 0}, "lstm_layers 0.*>= 1"),
        ("denoising_autoencoder", {"channels": []}, r"channels is \[\]"),
        ("denoising_autoencoder", {"kernel_size": 2}, "kernel_size is 2: use an odd number"),
        ("denoising_autoencoder", {"upsampling": "nearest"}, "upsampling is 'nearest'"),
        (
            "denoising_autoencoder",
            {"segment_seconds": 0.05, "channels": [4, 4], "kernel_size": 3},
            "5 bins or frames.*needs at least",
        ),
        ("dttnet", {"depth": 0}, "depth 0.*>= 1"),
        ("dttnet", {"norm_groups": 3}, "norm_groups 3, but .* 8 channels: use a multiple of 6"),
        ("dttnet", {"bins": {"bass": 64}}, "bins has bass, but the sources are vocals, rest"),
        ("dttnet", {"bins": {"vocals": 64, "rest": 65}}, "rest has 65 bins.*a multiple of 2"),
        ("dttnet", {"bottleneck": 64}, "vocals has 64 bins with a bottleneck of 64: .* least 128"),
        ("dttnet", {"bottleneck": 0}, "a bottleneck of at least 1"),
        ("dttnet", {"bins": 144}, "n_fft is 256 with 144 bins"),
        ("fnn", {"hidden": [8, 0]}, r"hidden is \[8, 0\].*>= 1"),
        ("hybrid_demucs", {"n_fft": 512}, "n_fft is 512.*1024, 2048, 4096"),
        ("hybrid_demucs", {"channels": 3}, "channels 3.*>= 4"),
        ("htdemucs", {"channels": 4}, "channels is 4.*at least 8 channels"),
        ("htdemucs", {"n_fft": 144, "depth": 3}, "n_fft is 144, depth 3: use a multiple of 128"),
        ("htdemucs", {"bottleneck_channels": 18, "heads": 3}, "has 18 features.*divisible by 4"),
        ("htdemucs", {"bottleneck_channels": 16, "heads": 3}, "16 features.*3 heads"),
        ("mask_unet", {"mask_rate": 48_000}, "mask_rate is 48000 with a sample_rate of 44100"),
        ("mask_unet", {"mask_rate": 0}, "mask_rate is 0"),
        ("mask_unet", {"channels": []}, r"channels is \[\]"),
        ("mask_unet", {"channels": [4, 0]}, r"channels is \[4, 0\]"),
        ("mask_unet", {"hop_length": 256}, "hop_length is 1378 with n_fft 1378"),
        ("mmdense_net", {"compression": 0.0}, r"compression is 0\.0: use a fraction"),
        ("mmdense_net", {"compression": 1.5}, r"compression is 1\.5"),
        ("mmdense_net", {"bands": []}, "bands is empty"),
        ("mmdense_net", mmdense("band", growth=[2, 2]), r"bands\[0\] has growth for 2.*for 3"),
        ("mmdense_net", mmdense("full", layers=[1] * 4), "full has growth for 5.*layers for 4"),
        (
            "mmdense_net",
            mmdense("full", growth=[1] * 4, layers=[1] * 4, lstm_units=[0] * 4),
            "full has growth for 4 .* same odd number",
        ),
        ("mmdense_net", mmdense("band", lstm_units=[2]), r"bands\[0\] .* lstm_units for 1"),
        ("mmdense_net", mmdense("band", lstm_units=[0, 3, 0]), r"lstm_units \[0, 3, 0\]: use even"),
        ("mmdense_net", mmdense("band", lstm_units=[0, -2, 0]), r"lstm_units \[0, -2, 0\]"),
        ("mmdense_net", mmdense("full", filters=0), "full is .*'filters': 0.*>= 1"),
        ("mmdense_net", mmdense("full", growth=[0] * 5), "full is .*>= 1"),
        (
            "mmdense_net",
            mmdense("full", kernel_size=[3]),
            r"full has kernel_size \[3\].*\[bins, fr",
        ),
        ("mmdense_net", mmdense("final", kernel_size=[3]), r"final has kernel_size \[3\]"),
        ("mmdense_net", mmdense("final", layers=0), "final is .*'layers': 0"),
        ("mmdense_net", mmdense("band", up_to_hz=100.0), r"bands\[0\] has 2 bins.*at least 3"),
        ("mmdense_net", mmdense("band", up_to_hz=20e3), r"bands\[1\] has -47 bins"),
        ("moises_light", {"channels": 0}, "channels is 0.*at least 1"),
        ("moises_light", {"kernel": 2}, "kernel is 2.*odd"),
        ("moises_light", {"decoder_blocks": 3}, "decoder_blocks is 3 with 2 scales"),
        ("moises_light", {"estimate": "masks"}, "estimate 'masks'.*spectrum or mask"),
        ("moises_light", {"channels": 6}, "channels is 6 .* 4 subbands.*multiples of 4"),
        ("moises_light", {"bins": 28}, "bins 28 .* bottleneck of 8: .* at least 32 bins"),
        ("moises_light", {"bins": 132}, "n_fft is 256 with 132 bins.*at most 129"),
        ("nmf", {"rank": 0}, "rank is 0.*>= 1"),
        ("nmf", {"rank": {"vocals": 2}}, "rank has vocals.*rest is missing"),
        ("nmf", {"template_frames": 0}, "template_frames 0"),
        ("nmf", {"iterations": 0}, "iterations 0"),
        ("nmf", {"initial_templates": "pitched"}, "pitched.*random or data"),
        ("nmf", {"step_size": 0.0}, "step_size is 0"),
        ("nmf", {"step_size": 1.5}, r"step_size is 1\.5"),
        ("open_unmix", {"hidden_size": 15}, "hidden_size is 15"),
        ("open_unmix", {"layers": 0}, "layers 0"),
        ("open_unmix", {"bandwidth_hz": -1.0}, r"bandwidth_hz is -1\.0"),
        ("open_unmix", {"bandwidth_hz": NAN}, "bandwidth_hz is nan"),
        (
            "roma",
            {"sample_rate": 48_000},
            "sample_rate is 48000.*mask_rate 22050.*sample_rate=44100",
        ),
        ("roma", {"target": "hard"}, "'hard'.*soft, dominant"),
        ("roma", {"mask": "none"}, "ratio or binary"),
        ("roma", {"context_frames": 10}, "context_frames is 10.*odd"),
        ("roma", {"filters": [2]}, r"filters are \[2\].*one pool"),
        ("roma", {"hidden": [0]}, r"hidden \[0\]"),
        ("roma", {"context_frames": 3}, "reduce 3 frames.*context_frames"),
        ("roma", {"high_band_source": "piano"}, "'piano'.*vocals, rest"),
        ("scnet", {"channels": []}, r"channels are \[\]"),
        ("scnet", {"channels": [2, 8]}, "compression is 4 with 2 channels"),
        ("scnet", {"layers": 3}, "layers 3.*even"),
        ("scnet", {"kernel": 2}, "kernel 2.*odd"),
        ("scnet", {"estimate": "masks"}, "estimate 'masks': use lstm"),
        ("scnet", {"hop_length": 256}, "hop_length is 256 with n_fft 512: use less than 256"),
        ("scnet", {"band_shares": [0.5, 0.6]}, r"band_shares are \[0\.5, 0\.6\]"),
        ("tfc_tdf", {"channels": 0}, "channels is 0.*at least 1"),
        ("tfc_tdf", {"scale": [2]}, r"scale \[2\].*two factors"),
        ("tfc_tdf", {"bins": 100}, "bins is 100, with 4 subbands.*a multiple of 16"),
        ("tfc_tdf", {"bins": 32}, "smallest scale has at least 4 bins"),
        ("tfc_tdf", {"bins": 144}, "n_fft is 256 with 144 bins.*at most 129"),
        ("tfc_tdf", {"hop_length": 128}, "a hop_length below 128"),
        ("unet", {"alphas": {"vocals": 0.5, "rest": 0.6}}, r"add up to 1\.1"),
        ("unet", {"alphas": {"vocals": 0.5, "rest": NAN}}, "add up to nan"),
        ("unet", {"alphas": {"vocals": 1.5, "rest": -0.5}}, "non-negative"),
        ("unet", {"alphas": {"vocals": 0.5, "drums": 0.5}}, "drums.*rest"),
        ("unet", {"alphas": "loud"}, "'loud'.*equal or balanced"),
        ("unet", {"channels": [0]}, r"channels is \[0\]"),
        ("unet", {"mask": "soft"}, "'soft'.*none, ratio, binary"),
        ("unet", {**ONE, "mask": "ratio"}, "source, vocals"),
        ("unet", {"magnitude_scale": "log"}, "'log'.*linear or db"),
        ("unet", {"overlap": 1.0}, r"1\.0.*0 to below 1"),
        ("unet", {"overlap_window": "box"}, "overlap_window is .box.: give one of crossfade"),
        ("unet", {"edges": "mirror"}, "edges is .mirror.: give one of zeros"),
        ("unet", {"chunks_at_once": 0}, "chunks_at_once is 0"),
        ("unet", {"segment_seconds": -1.0}, r"segment_seconds is -1\.0"),
        ("unet", {"hop_length": 385}, "hop_length is 385 with n_fft 512.*384"),
        ("wave_unet", {"output": "both"}, "'both': use direct or difference"),
        ("wave_unet", {"upsampling": "cubic"}, "'cubic': use linear or learned"),
        ("wave_unet", ONE, "only one source, vocals.*second source"),
        ("wave_unet", {"levels": 0}, "levels is 0"),
        ("wave_unet", {"filters": 0}, "filters 0"),
        ("wave_unet", {"down_kernel": 4}, "down_kernel 4.*odd"),
        ("wave_unet", {"up_kernel": 2}, "up_kernel 2"),
    ],
)
def test_faulty_settings_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    kind: Any = class_of(name)
    with pytest.raises(ValueError, match=words):
        kind(**{**TWO, **kind.tiny, **settings})
