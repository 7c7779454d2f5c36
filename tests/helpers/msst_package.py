"""Tiny models of the package ``msst`` (Music-Source-Separation-Training), and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from msst.models.bs_roformer import BSRoformer, MelBandRoformer

KINDS = {"bs_roformer": BSRoformer, "mel_band_roformer": MelBandRoformer}
TINY: dict[str, Any] = {
    "dim": 8, "depth": 1, "heads": 2, "dim_head": 4, "stereo": True, "num_stems": 2,
    "time_transformer_depth": 1, "freq_transformer_depth": 1, "mlp_expansion_factor": 1,
    "stft_n_fft": 256, "stft_win_length": 256, "stft_hop_length": 64, "dim_freqs_in": 129,
    "attn_dropout": 0.0, "ff_dropout": 0.0,
}  # fmt: skip
OF_KIND: dict[str, dict[str, Any]] = {
    "bs_roformer": {"freqs_per_bands": (*[4] * 8, *[12] * 4, 24, 25), "mask_estimator_depth": 2},
    "mel_band_roformer": {"num_bands": 12, "mask_estimator_depth": 1},
}


def network(kind: str, **options: Any) -> Any:
    """A network in evaluation mode, with random weights, gains and biases."""
    model = KINDS[kind](**TINY | OF_KIND[kind] | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def config(kind: str, instruments: list[str], chunk: int = 4410, **options: Any) -> dict[str, Any]:
    """The config of ``network`` with the same options."""
    return {
        "audio": {"chunk_size": chunk, "sample_rate": 44100, "num_channels": 2},
        "model": TINY | OF_KIND[kind] | options,
        "training": {"instruments": instruments, "target_instrument": None},
        "inference": {"batch_size": 1, "num_overlap": 2},
    }


def write(
    folder: Path, kind: str, instruments: list[str], **options: Any
) -> tuple[Any, Path, Path]:
    """Write the files of a network; return it, its config and its weights."""
    options = {"num_stems": len(instruments), **options}
    folder.mkdir(parents=True, exist_ok=True)
    model = network(kind, **options)
    (folder / "config.yaml").write_text(yaml.dump(config(kind, instruments, **options)))
    torch.save(model.state_dict(), folder / "model.ckpt")
    return model, folder / "config.yaml", folder / "model.ckpt"
