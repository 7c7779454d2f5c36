"""Tiny models of the package ``msst`` (Music-Source-Separation-Training), and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from msst.utils.model_utils import demix
from msst.utils.settings import get_model_from_config, load_config
from torch import Tensor

from lightning_modules.base.separator import SourceSeparator

_ROFORMER: dict[str, Any] = {
    "dim": 8, "depth": 1, "heads": 2, "dim_head": 4, "stereo": True,
    "time_transformer_depth": 1, "freq_transformer_depth": 1, "mlp_expansion_factor": 1,
    "stft_n_fft": 256, "stft_win_length": 256, "stft_hop_length": 64, "dim_freqs_in": 129,
    "attn_dropout": 0.0, "ff_dropout": 0.0,
}  # fmt: skip
_SCNET: dict[str, Any] = {
    "audio_channels": 2, "dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512,
    "num_dplayer": 2,
}  # fmt: skip
OF_KIND: dict[str, dict[str, Any]] = {
    "bs_roformer": {
        **_ROFORMER, "freqs_per_bands": (*[4] * 8, *[12] * 4, 24, 25), "mask_estimator_depth": 2,
    },
    "mel_band_roformer": {**_ROFORMER, "num_bands": 12, "mask_estimator_depth": 1},
    "scnet": _SCNET,
    "scnet_masked": _SCNET,
    "scnet_tran": {
        **_SCNET, "tran_rotary_embedding_dim": 4, "tran_dim_head": 4, "tran_heads": 2,
    },
    "mdx23c": {
        "act": "gelu", "norm": "InstanceNorm", "bottleneck_factor": 4, "growth": 4,
        "num_blocks_per_scale": 1, "num_channels": 8, "num_scales": 2, "num_subbands": 4,
        "scale": [2, 2],
    },
    "moises_light": {
        "G": 8, "n_bands": 4, "freq_dim": 96, "n_fft": 256, "win_size": 256, "hop_size": 64,
        "n_enc": 2, "n_split_enc": 2, "n_rope": 1, "bn_factor": 4,
        "transformer_params": {
            "heads": 2, "dim_head": 4, "ff_mult": 2, "flash_attn": False, "attn_dropout": 0.0,
            "proj_dropout": 0.0, "ff_dropout": 0.0,
        },
    },
}  # fmt: skip
"""Types and their options."""
_AUDIO: dict[str, dict[str, Any]] = {"mdx23c": {"n_fft": 256, "hop_length": 64, "dim_f": 128}}


def config(
    kind: str,
    instruments: list[str],
    chunk: int = 4544,
    overlaps: int = 2,
    batch_size: int = 1,
    normalize: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """The config of a tiny network with the given options."""
    stems: dict[str, Any] = {}
    if "roformer" in kind:
        stems = {"num_stems": len(instruments)}
    elif "scnet" in kind or kind == "moises_light":
        stems = {"sources": instruments}
    audio = {"chunk_size": chunk, "sample_rate": 44100, "num_channels": 2}
    changed = {name: options.pop(name) for name in _AUDIO.get(kind, {}) if name in options}
    return {
        "audio": audio | _AUDIO.get(kind, {}) | changed,
        "model": OF_KIND[kind] | stems | options,
        "training": {"instruments": instruments, "target_instrument": None},
        "inference": {"batch_size": batch_size, "num_overlap": overlaps, "normalize": normalize},
    }


def write(
    folder: Path, kind: str, instruments: list[str], **options: Any
) -> tuple[Any, Path, Path]:
    """Write the files of a network with random weights, gains and biases.

    Returns:
        The network in evaluation mode, its config and its weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, weights = folder / "config.yaml", folder / "model.ckpt"
    path.write_text(yaml.dump(config(kind, instruments, **options)))
    model, _ = get_model_from_config(kind, str(path))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(0.05 * torch.rand_like(buffer))
    torch.save(model.state_dict(), weights)
    return model.eval(), path, weights


def load(kind: str, path: Path, weights: Path) -> Any:
    """Load a network, strictly, in evaluation mode."""
    model, _ = get_model_from_config(kind, str(path))
    model.load_state_dict(torch.load(weights), strict=True)
    return model.eval()


def assert_separation_equals_demix(
    model: SourceSeparator, theirs: Any, kind: str, path: Path, samples: int
) -> None:
    """Compare ``separate`` with the package's ``demix`` within 1e-5 of the peak.

    ``demix`` has two faults. With one overlap, it gives zeros where two chunks meet. With batches,
    it leaves out the fade at the end of all chunks of the last batch, and for songs of up to two
    overlaps at their start; chunks before the last batch are compared there.

    Args:
        model: The imported model.
        theirs: The package's network.
        kind: Its type.
        path: Its config.
        samples: Length of the song.
    """
    settings = load_config(kind, str(path))
    chunk, overlaps = settings.audio.chunk_size, settings.inference.num_overlap
    batch_size, step = settings.inference.batch_size, chunk // overlaps
    mixture = 0.1 * torch.randn(2, samples)
    with torch.no_grad():
        result = demix(settings, theirs, mixture.numpy(), torch.device("cpu"), kind)
        found = model.separate(mixture)
    expected = torch.stack([torch.from_numpy(result[name]) for name in model.sources])
    same = torch.ones(samples, dtype=torch.bool)
    if overlaps == 1:
        seams = torch.arange(samples) % chunk
        same = (seams != 0) & (seams != chunk - 1)
    if batch_size > 1:
        padded = samples + 2 * (chunk - step) * (samples > 2 * (chunk - step))
        chunks = -(-padded // step)
        first_of_last = (chunks - 1) // batch_size * batch_size * step
        same &= torch.arange(samples) < first_of_last - (chunk - step)
    difference: Tensor = (found - expected).abs()[..., same]
    assert same.any() or batch_size > 1
    assert (difference <= 1e-5 * expected.abs().max()).all()
