"""MSST's type ``moises_light``, of the package ``moises-light``: import and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_modules.architectures.moises_light import MoisesLight
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import building_from
from lightning_modules.interop.msst_files import Exported, Imported, ModelFiles
from lightning_modules.interop.renaming import Rules, count, their_name, to_theirs
from lightning_modules.interop.roformer_weights import LAYER_RULES
from lightning_modules.interop.weights_file import integer_setting
from lightning_modules.layers.attention import Transformer

KINDS = ("moises_light",)
CLASSES = (MoisesLight,)
_SUPPORTED = {"norm_name": "BatchNorm", "act_name": "ReLU"}
# Options of the transformers are a mapping in the config.
_TRANSFORMER = "transformer_params."
# Ours by theirs, of the sizes that follow from the weights.
_SIZES = {
    "G": "channels",
    "n_enc": "scales",
    "n_dec": "decoder_blocks",
    "n_split_enc": "depth",
    "n_split_dec": "decoder_depth",
    "bn_factor": "bottleneck",
    "edge_kernel_size": "kernel",
    "n_rope": "blocks",
    "n_bands": "subbands",
    "freq_dim": "bins",
    "n_fft": "n_fft",
    f"{_TRANSFORMER}heads": "heads",
    f"{_TRANSFORMER}dim_head": "head_features",
    f"{_TRANSFORMER}ff_mult": "expansion",
}
_DROPOUTS = {name: f"{_TRANSFORMER}{name}_dropout" for name in ("attn", "proj", "ff")}
_OPTIONS = frozenset({
    "sources", "audio_channels", "hop_size", "win_size", "normalized", "use_mask", "zero_dc",
    *_SIZES, *_SUPPORTED, *_DROPOUTS.values(),
})  # fmt: skip
_WITHOUT_EFFECT = frozenset({f"{_TRANSFORMER}flash_attn"})
_RULES: Rules = (
    (r"^first\.", "first_conv."),
    (r"^last\.", "final_conv."),
    (r"^sources_head\.", "source_head."),
    (r"^unet\.down\.", "ds."),
    (r"^unet\.encoder\.", "encoder_blocks."),
    (r"^unet\.decoder\.", "dec_heavy_blocks."),
    (r"^unet\.middle\.0\.", "bottleneck.split_merge."),
    (r"^unet\.middle\.1\.\d+\.gain$", "bottleneck.final_norm.gamma"),
    (r"^unet\.middle\.1\.(\d+)\.time\.", r"bottleneck.rope_blocks.\1.time_transformer."),
    (r"^unet\.middle\.1\.(\d+)\.bands\.", r"bottleneck.rope_blocks.\1.freq_transformer."),
    (r"\.shortcut\.0\.0\.", ".res.conv."),
    (r"\.shortcut\.0\.1\.", ".res.bn."),
    (r"\.before\.(\d+)\.0\.", r".split1.\1.conv."),
    (r"\.before\.(\d+)\.1\.", r".split1.\1.bn."),
    (r"\.after\.(\d+)\.0\.", r".split2.\1.conv."),
    (r"\.after\.(\d+)\.1\.", r".split2.\1.bn."),
    (r"\.dense\.0\.0\.", ".tdf.fc1."),
    (r"\.dense\.0\.1\.", ".tdf.bn1."),
    (r"\.dense\.1\.0\.", ".tdf.fc2."),
    (r"\.dense\.1\.1\.", ".tdf.bn2."),
    *LAYER_RULES,
)
# Transforms and rotary frequencies, which follow from the options.
_NOT_NEEDED = r"stft_window|freq_pad|.*\.rotary_embed\.freqs"


def kind_of(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Return the type that options of a config or weights belong to; None for others."""
    known = {"n_bands", "n_rope"} <= {*options} or "bottleneck.final_norm.gamma" in state
    return KINDS[0] if known else None


def load(files: ModelFiles, kind: str) -> Imported:
    """Build a separator.

    Raises:
        CheckpointError: Config and weights contradict each other, or are not supported.
        KeyError: The weights lack one, whose name the error holds.
    """
    config, options, state = files.config, files.options, files.state
    transformer = options.pop(_TRANSFORMER[:-1], None) or {}
    if not isinstance(transformer, Mapping):
        raise CheckpointError(
            f"{config}: model.{_TRANSFORMER[:-1]} is {transformer!r}, options were expected"
        )
    options |= {f"{_TRANSFORMER}{name}": value for name, value in transformer.items()}
    sizes = _sizes(state)
    channels = integer_setting(config, options, "audio_channels", 2)
    inputs, number = sizes.pop("inputs"), sizes.pop("sources")
    if inputs != 2 * channels:
        raise CheckpointError(
            f"{config}: model.audio_channels is {channels}, but {files.weights} has {inputs} "
            "inputs: twice the channels were expected"
        )
    files.check_options({**sizes, "win_size": sizes["n_fft"]})
    files.check_supported(_SUPPORTED)
    given: dict[str, Any] = {ours: sizes[theirs] for theirs, ours in _SIZES.items()}
    with building_from(config, files.weights.stat().st_size, "describes no model of the weights"):
        model = MoisesLight(
            files.sources(number),
            sample_rate=files.sample_rate,
            audio_channels=channels,
            hop_length=integer_setting(config, options, "hop_size", 1024),
            normalized=bool(options.get("normalized", True)),
            estimate="mask" if options.get("use_mask", True) else "spectrum",
            attention_dropout=options.get(_DROPOUTS["attn"], 0.0),
            feedforward_dropout=options.get(_DROPOUTS["ff"], 0.0),
            zero_dc=bool(options.get("zero_dc", False)),
            **given,
            **files.separation(),
        )
    transposed = files._replace(state=_transposed(state))
    transposed.load_renamed(model, _rules(sizes["n_dec"], sizes["n_enc"]), _NOT_NEEDED)
    return Imported(model.eval(), files.remarks(_OPTIONS, _WITHOUT_EFFECT))


def export(model: SourceSeparator) -> Exported:
    """Describe a Moises-Light as MSST does.

    Raises:
        ValueError: MSST has none with these arguments.
    """
    assert isinstance(model, MoisesLight)
    given = dict(model.hparams)
    if model.zero_dc or given.get("window", "hann") != "hann":
        raise ValueError(
            f"MSST has no Moises-Light with zero_dc {model.zero_dc} and window "
            f"{given.get('window', 'hann')}: it has a Hann window and no zero_dc"
        )
    rules = _rules(given["decoder_blocks"], given["scales"])
    state = _transposed(to_theirs(model, rules))
    state["stft_window"] = torch.hann_window(model.n_fft)
    bins = model.n_fft // 2 + 1 - model.bins
    state["freq_pad"] = torch.zeros(1, 2 * model.audio_channels, bins, 1)
    for name, part in model.named_modules():
        if isinstance(part, Transformer):
            path = their_name(f"{name}.", rules)
            state[f"{path}layers.0.0.rotary_embed.freqs"] = part.positions.frequencies.clone()
    options = {theirs: given[ours] for theirs, ours in _SIZES.items()}
    options |= {
        "sources": list(model.sources),
        "audio_channels": model.audio_channels,
        "hop_size": model.hop_length,
        "win_size": model.n_fft,
        "normalized": model.transform.normalized,
        "use_mask": model.estimate == "mask",
        _DROPOUTS["attn"]: given["attention_dropout"],
        _DROPOUTS["proj"]: given["attention_dropout"],
        _DROPOUTS["ff"]: given["feedforward_dropout"],
        **_SUPPORTED,
    }
    inner = [name for name in options if name.startswith(_TRANSFORMER)]
    transformer = {name.removeprefix(_TRANSFORMER): options.pop(name) for name in inner}
    return Exported(KINDS[0], {**options, _TRANSFORMER[:-1]: transformer}, state)


def _rules(decoder_blocks: int, scales: int) -> Rules:
    """Return the rules for names; theirs tell scales of the decoder with and without blocks."""
    return (
        *_RULES,
        *((rf"^unet\.up\.{scale}\.", f"dec_heavy_us.{scale}.") for scale in range(decoder_blocks)),
        *(
            (rf"^unet\.up\.{scale}\.", f"dec_light_us.{scale - decoder_blocks}.")
            for scale in range(decoder_blocks, scales)
        ),
        (r"^(first_conv|(?:ds|dec_heavy_us|dec_light_us)\.\d+)\.0\.", r"\1.conv."),
        (r"^(first_conv|(?:ds|dec_heavy_us|dec_light_us)\.\d+)\.1\.", r"\1.bn."),
    )


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the options that follow from the shapes of the weights.

    Raises:
        KeyError: A tensor is missing; the error holds its name.
    """
    first, grouped = state["first_conv.conv.weight"], state["encoder_blocks.0.res.conv.weight"]
    dense = state["encoder_blocks.0.tdf.fc1.weight"]  # (features, bins of a band)
    path = "bottleneck.rope_blocks.0.time_transformer.layers.0"
    heads, up = len(state[f"{path}.0.to_gates.weight"]), state[f"{path}.1.net.1.weight"]
    subbands = len(grouped) // grouped.shape[1]
    bins = subbands * dense.shape[1]
    inputs, blocks = first.shape[1], count(state, r"dec_heavy_blocks\.(\d+)\.res\.conv\.weight")
    decoder_depth = count(state, r"dec_heavy_blocks\.0\.split1\.(\d+)\.conv\.weight")
    return {
        "inputs": inputs,
        "sources": len(state["source_head.weight"]) // inputs
        if "source_head.weight" in state
        else 1,
        "G": len(first),
        "n_enc": count(state, r"ds\.(\d+)\.conv\.weight"),
        "n_dec": blocks,
        "n_split_enc": count(state, r"encoder_blocks\.0\.split1\.(\d+)\.conv\.weight"),
        "n_split_dec": decoder_depth if blocks else 1,
        "bn_factor": dense.shape[1] // len(dense),
        "edge_kernel_size": first.shape[2],
        "n_rope": count(state, r"bottleneck\.rope_blocks\.(\d+)\.time_transformer\..*gates\.bias"),
        "n_bands": subbands,
        "freq_dim": bins,
        "n_fft": 2 * (state["freq_pad"].shape[2] + bins - 1),
        f"{_TRANSFORMER}heads": heads,
        f"{_TRANSFORMER}dim_head": len(state[f"{path}.0.to_qkv.weight"]) // (3 * heads),
        f"{_TRANSFORMER}ff_mult": len(up) // up.shape[1],
    }


def _transposed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Exchange the axes of bins and frames of convolutions."""
    return {
        name: weights.transpose(2, 3).contiguous() if weights.ndim == 4 else weights
        for name, weights in state.items()
    }
