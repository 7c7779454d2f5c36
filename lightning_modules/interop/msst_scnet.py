"""MSST's types ``scnet``, ``scnet_masked`` and ``scnet_tran``: import and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_modules.architectures.scnet import SCNet
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import building_from
from lightning_modules.interop.msst_files import Exported, Imported, ModelFiles
from lightning_modules.interop.renaming import (
    Rules,
    count,
    to_theirs,
)
from lightning_modules.interop.roformer_weights import LAYER_RULES
from lightning_modules.interop.weights_file import integer_setting
from lightning_modules.layers.attention import Transformer

KINDS = ("scnet", "scnet_masked", "scnet_tran")
CLASSES = (SCNet,)
_OPTIONS = frozenset({
    "sources", "audio_channels", "dims", "nfft", "hop_size", "win_size", "normalized", "band_SR",
    "band_stride", "band_kernel", "conv_depths", "compress", "conv_kernel", "num_dplayer",
    "expand", "tran_rotary_embedding_dim", "tran_depth", "tran_heads", "tran_dim_head",
    "tran_attn_dropout", "tran_ff_dropout", "standardise_input", "zero_dc",
})  # fmt: skip
_WITHOUT_EFFECT = frozenset({"tran_flash_attn"})
_LAYER = r"encoder.\1.conv_modules.\2.layers.\3"
_RULES: Rules = (
    (r"encoder\.(\d+)\.compressions\.", r"encoder.\1.SDlayer.convs."),
    (r"encoder\.(\d+)\.refinements\.(\d+)\.(\d+)\.norm", _LAYER + ".0"),
    (r"encoder\.(\d+)\.refinements\.(\d+)\.(\d+)\.gated", _LAYER + ".1"),
    (r"encoder\.(\d+)\.refinements\.(\d+)\.(\d+)\.depthwise", _LAYER + ".3"),
    (r"encoder\.(\d+)\.refinements\.(\d+)\.(\d+)\.hidden_norm", _LAYER + ".4"),
    (r"encoder\.(\d+)\.refinements\.(\d+)\.(\d+)\.output", _LAYER + ".6"),
    (r"(conv_modules.*)\.gain", r"\1.weight"),
    (r"(conv_modules.*)\.offset", r"\1.bias"),
    (r"encoder\.(\d+)\.mixing\.", r"encoder.\1.globalconv."),
    (r"decoder\.(\d+)\.mixing\.", r"decoder.\1.0.conv."),
    (r"decoder\.(\d+)\.expansions\.", r"decoder.\1.1.convtrs."),
    (r"dual_path\.layers\.(\d+)\.norms\.", r"separation_net.dp_modules.\1.norm_layers."),
    (r"dual_path\.layers\.(\d+)\.bins\.(lstm|linear)", r"separation_net.dp_modules.\1.\2_layers.0"),
    (
        r"dual_path\.layers\.(\d+)\.frames\.(lstm|linear)",
        r"separation_net.dp_modules.\1.\2_layers.1",
    ),
    (r"dual_path\.layers\.(\d+)\.bins\.", r"separation_net.dp_modules.\1.freq_layer."),
    (r"dual_path\.layers\.(\d+)\.frames\.", r"separation_net.dp_modules.\1.time_layer."),
    (r"(freq|time)_layer\.norm\.gain", r"\1_layer.norm.gamma"),
    *LAYER_RULES,
    ("^embedding$", "pos_embed_f"),
    (r"^mask\.hidden\.", "mask_layer.0."),
    (r"^mask\.output\.", "mask_layer.2."),
)
# Rotary frequencies, which follow from the size of a head; and a layer that MSST never uses.
_NOT_NEEDED = r".*\.rotary_embed\.freqs|first_conv\.weight"


def kind_of(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Return the type that options of a config or weights belong to; None for others."""
    if "band_SR" not in options and "encoder.0.globalconv.weight" not in state:
        return None
    if "pos_embed_f" in state:
        return "scnet_masked"
    transformer = "separation_net.dp_modules.0.time_layer.norm.gamma" in state
    return "scnet_tran" if transformer else "scnet"


def load(files: ModelFiles, kind: str) -> Imported:
    """Build a separator.

    Raises:
        CheckpointError: Config and weights contradict each other, or are not supported.
        KeyError: The weights lack one, whose name the error holds.
    """
    config, options, state = files.config, files.options, files.state
    if (other := kind_of(options, state)) != kind:
        raise CheckpointError(
            f"{files.weights}: are weights of a {other}, but {config} is of a {kind}"
        )
    sizes = _sizes(state)
    channels = integer_setting(config, options, "audio_channels", 2)
    inputs, outputs = sizes.pop("inputs"), sizes.pop("outputs")
    if inputs != 2 * channels or outputs % inputs:
        raise CheckpointError(
            f"{config}: model.audio_channels is {channels}, but {files.weights} has {inputs} "
            f"inputs and {outputs} outputs: twice the channels, and that for each source, were "
            "expected"
        )
    files.check_options({**sizes, "dims": [inputs, *sizes["dims"]]})
    n_fft = integer_setting(config, options, "nfft", 4096)
    head = sizes.get("tran_dim_head")
    for name, expected in (("win_size", n_fft), ("tran_rotary_embedding_dim", head)):
        if expected and options.get(name, expected) != expected:
            raise CheckpointError(
                f"{config}: model.{name} is {options[name]}: only {expected} is supported for "
                "these weights"
            )
    settings: dict[str, Any] = {
        "sources": files.sources(outputs // inputs),
        "sample_rate": files.sample_rate,
        "audio_channels": channels,
        "channels": sizes["dims"],
        "band_shares": list(options.get("band_SR", (0.175, 0.392, 0.433)))[:-1],
        "band_strides": list(options.get("band_stride", (1, 4, 16))),
        "band_kernels": sizes["band_kernel"],
        "band_depths": sizes["conv_depths"],
        "compression": options.get("compress", 4),
        "kernel": options.get("conv_kernel", 3),
        "layers": sizes["num_dplayer"],
        "n_fft": n_fft,
        "hop_length": integer_setting(config, options, "hop_size", 1024),
        "normalized": bool(options.get("normalized", True)),
        "standardise_input": bool(options.get("standardise_input", False)),
        "zero_dc": bool(options.get("zero_dc", False)),
        **files.separation(),
    }
    if head:
        settings |= {
            "sequence_network": "transformer",
            "transformer_layers": sizes["tran_depth"],
            "heads": sizes["tran_heads"],
            "head_features": head,
            "dropout": options.get("tran_attn_dropout", 0.0),
        }
    else:
        settings["expansion"] = sizes["expand"]
    if kind == "scnet_masked":
        settings |= {"estimate": "mask", "window": "hann"}
    with building_from(config, files.weights.stat().st_size, "describes no model of the weights"):
        model = SCNet(**settings)
    files.load_renamed(model, _RULES, _NOT_NEEDED)
    return Imported(model.eval(), files.remarks(_OPTIONS, _WITHOUT_EFFECT))


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the options that follow from the shapes of the weights; ``dims`` without the first.

    Raises:
        KeyError: A tensor is missing; the error holds its name.
    """
    stages = count(state, r"encoder\.(\d+)\.globalconv\.weight")
    bands = count(state, r"encoder\.0\.SDlayer\.convs\.(\d+)\.weight")
    convolutions = [state[f"encoder.0.SDlayer.convs.{band}.weight"] for band in range(bands)]
    path = "separation_net.dp_modules"
    sizes: dict[str, Any] = {
        "inputs": state["encoder.0.SDlayer.convs.0.weight"].shape[1],
        "outputs": state[f"decoder.{stages - 1}.1.convtrs.0.weight"].shape[1],
        "dims": [len(state[f"encoder.{stage}.globalconv.weight"]) for stage in range(stages)],
        "band_kernel": [weight.shape[2] for weight in convolutions],
        "conv_depths": [
            count(state, rf"encoder\.0\.conv_modules\.{band}\.layers\.(\d+)\.0\.weight")
            for band in range(bands)
        ],
        "num_dplayer": count(state, rf"{path}\.(\d+)\.norm_layers\.0\.weight"),
    }
    if f"{path}.0.time_layer.norm.gamma" in state:
        first = f"{path}.0.time_layer.layers.0.0"
        sizes["tran_heads"] = len(state[f"{first}.to_gates.weight"])
        sizes["tran_dim_head"] = len(state[f"{first}.to_qkv.weight"]) // (3 * sizes["tran_heads"])
        sizes["tran_depth"] = count(state, rf"{path}\.0\.time_layer\.layers\.(\d+)\.0\.norm\.gamma")
    else:
        hidden, features = state[f"{path}.0.lstm_layers.0.weight_hh_l0"], sizes["dims"][-1]
        sizes["expand"] = hidden.shape[1] // features
    return sizes


def export(model: SourceSeparator) -> Exported:
    """Describe a SCNet as MSST does.

    Raises:
        ValueError: MSST has no SCNet with these arguments.
    """
    assert isinstance(model, SCNet)
    given = dict(model.hparams)
    is_mask, is_transformer = (
        given["estimate"] == "mask",
        given["sequence_network"] == "transformer",
    )
    window = "hann" if is_mask else "rectangular"
    if (
        given["standardise_input"]
        or model.zero_dc
        or (is_mask and is_transformer)
        or given["window"] != window
    ):
        raise ValueError(
            f"MSST has no SCNet with standardise_input {given['standardise_input']}, zero_dc "
            f"{model.zero_dc}, estimate {given['estimate']}, sequence_network "
            f"{given['sequence_network']} and window {given['window']}: it has spectra with a "
            "rectangular window, or masks of LSTMs with a Hann window, neither with a standardised "
            "input or zero_dc"
        )
    shares = list(given["band_shares"])
    options = {
        "sources": list(model.sources),
        "audio_channels": model.audio_channels,
        "dims": [2 * model.audio_channels, *given["channels"]],
        "nfft": model.n_fft,
        "hop_size": model.hop_length,
        "win_size": model.n_fft,
        "normalized": model.transform.normalized,
        "band_SR": [*shares, 1 - sum(shares)],
        "band_stride": list(given["band_strides"]),
        "band_kernel": list(given["band_kernels"]),
        "conv_depths": list(given["band_depths"]),
        "compress": given["compression"],
        "conv_kernel": given["kernel"],
        "num_dplayer": given["layers"],
        "expand": given["expansion"],
    }
    state = {
        # MSST's convolutions along frames have no axis of bins.
        name: weights.squeeze(2) if "conv_modules" in name and weights.ndim == 4 else weights
        for name, weights in to_theirs(model, _RULES).items()
    }
    if is_transformer:
        options |= {
            "tran_rotary_embedding_dim": given["head_features"],
            "tran_dim_head": given["head_features"],
            "tran_heads": given["heads"],
            "tran_depth": given["transformer_layers"],
            "tran_attn_dropout": given["dropout"],
            "tran_ff_dropout": given["dropout"],
        }
        state |= _unused(model)
    kind = KINDS[1] if is_mask else KINDS[2] if is_transformer else KINDS[0]
    return Exported(kind, options, state)


def _unused(model: SCNet) -> dict[str, Tensor]:
    """Return weights that MSST's ``scnet_tran`` has in its files, but does not train."""
    unused = {"first_conv.weight": torch.zeros(2 * [2 * model.audio_channels] + [1, 1])}
    for number, layer in enumerate(model.dual_path.layers):
        for axis, transformer in (("freq", layer.bins), ("time", layer.frames)):
            assert isinstance(transformer, Transformer)
            for depth in range(len(transformer.attentions)):
                path = f"separation_net.dp_modules.{number}.{axis}_layer.layers.{depth}"
                frequencies = transformer.positions.frequencies
                unused[f"{path}.0.rotary_embed.freqs"] = frequencies.clone()
    return unused
