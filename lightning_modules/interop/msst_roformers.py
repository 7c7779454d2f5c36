"""MSST's types ``bs_roformer`` and ``mel_band_roformer``: import and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_modules.architectures.bs_roformer import BandSplitTransformer, BSRoFormer
from lightning_modules.architectures.mel_band_roformer import MelBandRoFormer
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import building_from
from lightning_modules.interop import roformer_weights
from lightning_modules.interop.msst_files import Exported, Imported, ModelFiles

KINDS = ("bs_roformer", "mel_band_roformer")
CLASSES = (BSRoFormer, MelBandRoFormer)
_DECORATIVE = frozenset({
    "dim_freqs_in", "flash_attn", "match_input_audio_length", "multi_stft_hop_size",
    "multi_stft_normalized", "multi_stft_resolution_loss_weight",
    "multi_stft_resolutions_window_sizes", "multi_stft_window_fn", "sage_attention",
    "stft_window_fn", "use_torch_checkpoint",
})  # fmt: skip
"""Options that do not change a trained network: of losses, kernels and memory."""
_TRANSFORMER_OPTIONS = {
    "dim": "features", "depth": "blocks", "heads": "heads", "dim_head": "head_features",
    "time_transformer_depth": "time_layers", "freq_transformer_depth": "band_layers",
    "mlp_expansion_factor": "mask_expansion", "num_stems": "number_of_sources",
}  # fmt: skip
"""MSST's options -> arguments that follow from the shapes of the weights."""
_OTHER_OPTIONS = frozenset({
    "attn_dropout", "ff_dropout", "freqs_per_bands", "linear_transformer_depth",
    "mask_estimator_depth", "num_bands", "sample_rate", "skip_connection", "stereo",
    "stft_hop_length", "stft_n_fft", "stft_normalized", "stft_win_length", "use_pope", "zero_dc",
})  # fmt: skip


def kind_of(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Return the type that options of a config or weights belong to; None for others."""
    if "freqs_per_bands" in options or "final_norm.gamma" in state:
        return "bs_roformer"
    if "num_bands" in options or "layers.0.0.norm.gamma" in state:
        return "mel_band_roformer"
    return None


def load(files: ModelFiles, kind: str) -> Imported:
    """Build a separator.

    Raises:
        CheckpointError: Config and weights contradict each other, or are not supported.
        KeyError: The weights lack one, whose name the error holds.
    """
    config, weights, options = files.config, files.weights, files.options
    arguments = roformer_weights.inferred_arguments(files.state)
    is_mel = kind == "mel_band_roformer"
    # MSST counts layers of the mask estimator in BS-RoFormer, hidden layers in Mel-Band RoFormer.
    depth = arguments["mask_hidden_layers"] + (not is_mel)
    channels = 2 if options.get("stereo") else 1
    band_widths = [size // (2 * channels) for size in arguments["band_inputs"]]
    bands = {"num_bands": len(band_widths)} if is_mel else {"freqs_per_bands": band_widths}
    found = {name: arguments[ours] for name, ours in _TRANSFORMER_OPTIONS.items()}
    files.check_options({**found, **bands, "mask_estimator_depth": depth})
    files.refuse_options("linear_transformer_depth", "use_pope")
    if arguments.pop("norm_per_transformer") != is_mel:
        other = "bs_roformer" if is_mel else "mel_band_roformer"
        raise CheckpointError(f"{weights}: are weights of a {other}, but {config} is of a {kind}")
    number, band_inputs = arguments.pop("number_of_sources"), arguments.pop("band_inputs")
    sources = files.sources(number)
    n_fft = options.get("stft_n_fft", 2048)
    if options.get("stft_win_length", n_fft) != n_fft:
        raise CheckpointError(
            f"{config}: model.stft_win_length is {options['stft_win_length']}, stft_n_fft {n_fft}: "
            "only windows as long as the FFT are supported"
        )
    rate = files.sample_rate
    settings = {
        "sources": sources,
        "sample_rate": rate,
        "audio_channels": channels,
        "n_fft": n_fft,
        "hop_length": options.get("stft_hop_length", 512),
        "normalized": bool(options.get("stft_normalized", False)),
        "zero_dc": bool(options.get("zero_dc", True)),
        "add_earlier_blocks": bool(options.get("skip_connection", False)),
        "attention_dropout": options.get("attn_dropout", 0.1 if is_mel else 0.0),
        "feedforward_dropout": options.get("ff_dropout", 0.1 if is_mel else 0.0),
        **files.separation(),
        **arguments,
    }
    model: BandSplitTransformer
    with building_from(config, weights.stat().st_size, "describes no model of the weights"):
        if is_mel:
            if options.get("sample_rate", 44100) != rate:
                raise ValueError(
                    f"model.sample_rate is {options.get('sample_rate', 44100)}, audio.sample_rate "
                    f"{rate}: the same rate was expected"
                )
            model = MelBandRoFormer(number_of_bands=len(band_widths), **settings)
        else:
            model = BSRoFormer(band_widths=band_widths, **settings)
    expected = [2 * channels * width for width in _widths(model)]
    if expected != band_inputs:
        pairs = enumerate(zip(expected, band_inputs, strict=True))
        band = next(number for number, (ours, theirs) in pairs if ours != theirs)
        raise CheckpointError(
            f"{weights}: band {band} has {band_inputs[band]} inputs, {config} gives it "
            f"{expected[band]}: check model.stereo, stft_n_fft and the bands"
        )
    files.load_into(
        model,
        roformer_weights.from_msst(model, files.state),
        roformer_weights.unknown_names(model, list(files.state)),
    )
    return Imported(
        model.eval(), files.remarks({*_TRANSFORMER_OPTIONS} | _OTHER_OPTIONS, _DECORATIVE)
    )


def _widths(model: BandSplitTransformer) -> list[int]:
    layout = model.split.layout
    widths = {band: width for width, bands in layout.groups for band in bands}
    return [widths[band] for band in range(layout.number)]


def export(model: SourceSeparator) -> Exported:
    """Describe a model of one of ``CLASSES`` as MSST does."""
    assert isinstance(model, CLASSES)
    is_mel = isinstance(model, MelBandRoFormer)
    state = roformer_weights.to_msst(model)
    arguments = roformer_weights.inferred_arguments(state)
    hidden_layers = arguments["mask_hidden_layers"]
    options = {name: arguments[ours] for name, ours in _TRANSFORMER_OPTIONS.items()}
    options |= {
        "stereo": model.audio_channels == 2,
        "mask_estimator_depth": hidden_layers + (not is_mel),
        "attn_dropout": 0.0,
        "ff_dropout": 0.0,
        "flash_attn": True,
        "dim_freqs_in": model.n_fft // 2 + 1,
        "stft_n_fft": model.n_fft,
        "stft_hop_length": model.hop_length,
        "stft_win_length": model.n_fft,
        "stft_normalized": model.transform.normalized,
        "zero_dc": model.zero_dc,
        "skip_connection": model.add_earlier_blocks,
    }
    if is_mel:
        options |= {"num_bands": model.split.layout.number, "sample_rate": model.sample_rate}
        options["match_input_audio_length"] = True
    else:
        options["freqs_per_bands"] = tuple(_widths(model))
    return Exported("mel_band_roformer" if is_mel else "bs_roformer", options, state)
