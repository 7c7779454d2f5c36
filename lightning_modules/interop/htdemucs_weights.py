"""Arguments of HTDemucs in other projects' files, both ways; the weights have the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.architectures.htdemucs import HTDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop.renaming import count

_FIXED: Mapping[str, tuple[Any, ...]] = {
    "stride": (4,), "freq_emb": (0.2,), "emb_scale": (10,), "cac": (True,), "t_emb": ("sin",),
    "t_norm_first": (True,), "t_norm_in_group": (False, 0), "t_group_norm": (False, 0),
    "t_gelu": (True,), "t_max_period": (10_000,), "t_weight_pos_embed": (1,),
    "t_sin_random_shift": (0,), "t_sparse_self_attn": (False,), "t_sparse_cross_attn": (False,),
}  # fmt: skip
"""Values of options that do not show in the weights; others make networks that we do not have."""
NOT_IN_WEIGHTS = frozenset({"t_heads", "t_dropout", "norm_starts"})
"""Options of ``options_of`` that the weights do not tell."""
KNOWN = frozenset({
    *_FIXED, *NOT_IN_WEIGHTS, "channels", "channels_time", "growth", "nfft", "wiener_iters",
    "end_iters", "wiener_residual", "depth", "rewrite", "multi_freqs", "multi_freqs_depth",
    "emb_smooth", "kernel_size", "time_stride", "context", "context_enc", "norm_groups",
    "dconv_mode", "dconv_depth", "dconv_comp", "dconv_init", "bottom_channels", "t_layers",
    "t_hidden_scale", "t_max_positions", "t_norm_in", "t_norm_out", "t_weight_decay", "t_lr",
    "t_layer_scale", "t_cape_mean_normalize", "t_cape_augment", "t_cape_glob_loc_scale",
    "t_mask_type", "t_mask_random_seed", "t_sparse_attn_window", "t_global_window", "t_sparsity",
    "t_auto_sparsity", "t_cross_first", "rescale", "use_train_segment",
})  # fmt: skip
"""Options of the package's class; those beside the above show in the weights or do not matter."""


def is_htdemucs(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights are of HTDemucs."""
    return "crosstransformer.norm_in.weight" in state


def arguments_of(
    path: Path, state: Mapping[str, Tensor], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of ``HTDemucs`` for weights and the options of their network.

    Args:
        path: The file with the options, for messages.
        state: The weights.
        options: Arguments of the package's class.

    Raises:
        CheckpointError: The options make a network that is not supported.
        KeyError: A weight is missing; the error holds its name.
    """
    for name, values in _FIXED.items():
        if options.get(name, values[0]) not in values:
            raise CheckpointError(
                f"{path}: {name} is {options[name]!r:.40}: HTDemucs with {name} {values[0]} was "
                "expected, as all published models have"
            )
    upsampler = state.get("channel_upsampler.weight")
    layer = "crosstransformer.layers.0.linear1.weight"
    hidden, features = state[layer].shape
    return {
        "channels": len(state["encoder.0.conv.weight"]),
        "depth": count(state, r"encoder\.(\d+)\.conv\.weight"),
        "n_fft": 8 * len(state["freq_emb.embedding.weight"]),
        "bottleneck_channels": 0 if upsampler is None else len(upsampler),
        "transformer_layers": count(state, r"crosstransformer\.layers\.(\d+)\.linear1\.weight"),
        "heads": options.get("t_heads", 8),
        "expansion": hidden // features,
        "dropout": float(options.get("t_dropout", 0.0)),
        "audio_channels": state["tencoder.0.conv.weight"].shape[1],
    }


def options_of(model: HTDemucs) -> dict[str, Any]:
    """Return the arguments of the package's class that make a model's network."""
    settings = dict(model.hparams)
    return {
        "channels": settings["channels"],
        "depth": settings["depth"],
        "nfft": settings["n_fft"],
        "bottom_channels": settings["bottleneck_channels"],
        "t_layers": settings["transformer_layers"],
        "t_heads": settings["heads"],
        "t_hidden_scale": float(settings["expansion"]),
        "t_dropout": settings["dropout"],
        "dconv_mode": 3,
        "dconv_depth": 2,
        "dconv_comp": 8,
        "norm_starts": settings["depth"],
    }
