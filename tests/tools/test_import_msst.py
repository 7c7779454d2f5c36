"""Models of the package ``msst`` as folders and checkpoints, and back; mistakes of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.base.description import CheckpointError
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop import msst
from lightning_modules.interop.fine_tuning import load_pretrained
from lightning_modules.tools import export, import_msst
from tests.helpers.msst_package import OF_KIND, write

FOUR = ["vocals", "drums", "bass", "other"]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["folder", "model.ckpt"])
@pytest.mark.parametrize("kind", OF_KIND)
def test_import_and_export(
    kind: str, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_effect = {"flash_attn": True} if "roformer" in kind else {}
    theirs, config, weights = write(tmp_path / "msst", kind, FOUR, **without_effect)
    imported = tmp_path / output
    assert import_msst.main([str(config), str(weights), "-o", str(imported)]) == 0
    printed = capsys.readouterr()
    assert "of vocals, drums, bass, other, 44100 Hz; separates chunks of 0.10 s" in printed.out
    remarks = "not needed: model.dim_freqs_in, model.flash_attn" if without_effect else ""
    if kind == "moises_light":
        remarks = "not needed: model.transformer_params.flash_attn"
    assert remarks in printed.err
    assert bool(printed.err) == bool(remarks)
    model, mixture = load_separator(imported), 0.1 * torch.randn(1, 2, 4544)
    with torch.no_grad():
        expected = theirs(mixture)
        assert (model(mixture) - expected).abs().max() < 1e-5 * expected.abs().max()
    back = tmp_path / "back"
    assert export.main([str(imported), "-o", str(back), "--format", "msst"]) == 0
    theirs.load_state_dict(torch.load(back / "model.ckpt"), strict=True)
    with torch.no_grad():
        assert (theirs(mixture) - expected).abs().max() < 1e-6 * expected.abs().max()
    settings = yaml.unsafe_load((back / "config.yaml").read_text())
    expected_settings = {"batch_size": 1, "num_overlap": 2, "normalize": False}
    assert settings["inference"] == expected_settings
    assert settings["audio"]["chunk_size"] == 4544


@pytest.mark.parametrize("wrapper", ["state", "state_dict", "model_state_dict"])
def test_weights_in_checkpoints_and_in_half_precision(wrapper: str, tmp_path: Path) -> None:
    theirs, config, weights = write(tmp_path, "bs_roformer", ["vocals", "other"])
    state = {f"module.{name}": value.half() for name, value in theirs.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, weights)
    model = msst.load(config, weights).model
    mixture = 0.1 * torch.randn(1, 2, 6400)
    with torch.no_grad():
        expected = theirs(mixture)
        assert (model(mixture) - expected).abs().max() < 1e-2 * expected.abs().max()
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_one_stem_of_several_instruments(tmp_path: Path) -> None:
    _, config, weights = write(tmp_path, "mel_band_roformer", ["Vocals"])
    contents = yaml.unsafe_load(config.read_text())
    contents["training"] = {
        "instruments": ["Vocals", "Instrumental"],
        "target_instrument": "Vocals",
    }
    config.write_text(yaml.dump(contents))
    assert msst.load(config, weights).model.sources == ["vocals"]


def test_the_lowest_bin(tmp_path: Path) -> None:
    _, config, weights = write(tmp_path, "bs_roformer", ["vocals", "other"])
    for given, expected in (({}, True), ({"zero_dc": False}, False), ({"zero_dc": True}, True)):
        assert msst.load(config, weights, **given).model.zero_dc is expected  # type: ignore[comparison-overlap]


def test_standardised_input_and_checkpoints_of_scnets_authors(tmp_path: Path) -> None:
    theirs, config, weights = write(tmp_path / "msst", "scnet", ["vocals", "other"])
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state": {"wrong": torch.zeros(1)}, "best_state": state}, weights)
    imported, mixture = tmp_path / "imported.ckpt", 0.1 * torch.randn(1, 2, 4000)
    assert not msst.load(config, weights).model.hparams["standardise_input"]
    arguments = [str(config), str(weights), "-o", str(imported), "--standardise-input"]
    assert import_msst.main(arguments) == 0
    model = load_separator(imported)
    with torch.no_grad():
        spectrum = model.network_input(mixture)
        deviation, mean = torch.std_mean(spectrum, (1, 2, 3))
        given = (spectrum - mean) / (deviation + 1e-5)
        plain = msst.load(config, weights).model.network_forward(given)
        assert torch.allclose(model.network_forward(spectrum), plain * deviation + mean, atol=1e-5)
    with pytest.raises(ValueError, match="MSST has no SCNet with standardise_input True"):
        msst.write(model, tmp_path / "back")


def test_fine_tuning_with_other_stems(tmp_path: Path) -> None:
    write(tmp_path / "msst", "bs_roformer", FOUR)
    arguments = [str(tmp_path / "msst" / name) for name in ("config.yaml", "model.ckpt")]
    assert import_msst.main([*arguments, "-o", str(tmp_path / "imported")]) == 0
    old = load_separator(tmp_path / "imported")
    new = type(old)(**{**old.hparams, "sources": ["guitar", "vocals"]})
    report = load_pretrained(new, tmp_path / "imported")
    assert report.new == ["guitar"]
    assert all(name.startswith("masks.guitar.") for name in report.random)
    state, ours = old.state_dict(), new.state_dict()
    for name, value in ours.items():
        assert name.startswith("masks.guitar.") or torch.equal(value, state[name]), name


def set_option(section: str, name: str, value: object) -> Callable[[Path, Path], None]:
    def change(config: Path, weights: Path) -> None:
        contents = yaml.unsafe_load(config.read_text())
        contents[section][name] = value
        config.write_text(yaml.dump(contents))

    return change


def without_weight(name: str) -> Callable[[Path, Path], None]:
    def change(config: Path, weights: Path) -> None:
        state = torch.load(weights)
        del state[name]
        torch.save(state, weights)

    return change


def extra_weight(config: Path, weights: Path) -> None:
    state = torch.load(weights)
    state["layers.0.0.layers.0.0.to_value_residual_mix.weight"] = torch.zeros(1)
    torch.save(state, weights)


def no_section(config: Path, weights: Path) -> None:
    config.write_text("training: {}")


def python_object(config: Path, weights: Path) -> None:
    config.write_text("model: !!python/object/apply:os.system [echo]")


def swapped(config: Path, weights: Path) -> None:
    contents = config.read_bytes()
    config.write_bytes(weights.read_bytes())
    weights.write_bytes(contents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_option("model", "depth", 2), r"model\.depth is 2, but .*model\.ckpt has 1"),
        (set_option("model", "mask_estimator_depth", 3), "depth is 3, but .* has 2"),
        (set_option("model", "num_stems", 4), "num_stems is 4, but .* has 2"),
        (set_option("model", "stereo", False), "freqs_per_bands is .*24, 25.*, but .*48, 50"),
        (set_option("model", "freqs_per_bands", (2, 127)), r"freqs_per_bands is \(2, 127\), but"),
        (set_option("model", "stft_n_fft", 512), "stft_win_length is 256, stft_n_fft 512"),
        (set_option("model", "use_pope", True), "use_pope is True: .* not supported"),
        (set_option("training", "instruments", ["vocals"]), "names 1 stem .* separate 2"),
        (set_option("training", "instruments", None), r"names 0 stems \(none\)"),
        (
            set_option("training", "model_type", "apollo"),
            "of type apollo; .* bs_roformer, mel_band",
        ),
        (set_option("training", "model_type", "mel_band_roformer"), "depth is 2, but .* has 1"),
        (set_option("audio", "chunk_size", None), "chunk_size is None"),
        (set_option("audio", "chunk_size", 200), "has 200 samples, a window 256"),
        (set_option("audio", "chunk_size", 10**9), "segment_seconds is 22675"),
        (set_option("audio", "sample_rate", 7), "sample_rate is 7"),
        (set_option("inference", "num_overlap", 0), "num_overlap is 0"),
        (without_weight("final_norm.gamma"), "are weights of a mel_band_roformer"),
        (without_weight("layers.0.1.layers.0.1.net.1.bias"), "has no weights 'layers.0.1"),
        (extra_weight, "has 1 weight that BSRoFormer does not have, such as .*value_residual"),
        (no_section, "has no section `model`"),
        (python_object, "cannot be read as a YAML config .*python/object"),
        (swapped, "cannot be read as a YAML config"),
    ],
)
def test_files_that_contradict_each_other(
    change: Callable[[Path, Path], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, config, weights = write(tmp_path, "bs_roformer", ["vocals", "other"])
    change(config, weights)
    with pytest.raises(CheckpointError, match=message) as error:
        msst.load(config, weights)
    assert str(tmp_path) in str(error.value)
    assert import_msst.main([str(config), str(weights), "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("scnet", set_option("model", "dims", [4, 8, 16]), r"dims is \[4, 8, 16\], but .* has"),
        ("scnet", set_option("model", "num_dplayer", 4), "num_dplayer is 4, but .* has 2"),
        ("scnet", set_option("model", "band_kernel", [3, 4, 8]), r"band_kernel is \[3, 4, 8\]"),
        ("scnet", set_option("model", "audio_channels", 1), "audio_channels is 1, .* has 4 inputs"),
        ("scnet", set_option("model", "win_size", 256), "win_size is 256: only 512"),
        ("scnet", set_option("model", "band_SR", [0.9, 0.2]), "band_shares are"),
        ("scnet", set_option("model", "compress", 2), "size mismatch for encoder"),
        ("scnet", set_option("model", "hop_size", 300), "hop_length is 300 with n_fft 512"),
        ("scnet", set_option("training", "model_type", "scnet_tran"), "are weights of a scnet, "),
        ("scnet", extra_weight, "has 1 weight that SCNet does not have"),
        ("mdx23c", set_option("model", "growth", 8), "growth is 8, but .* has 4"),
        ("mdx23c", set_option("model", "scale", [2, 4]), r"scale is \[2, 4\], but .* has \[2, 2\]"),
        ("mdx23c", set_option("model", "norm", "BatchNorm"), "norm is BatchNorm: only InstanceN"),
        ("mdx23c", set_option("model", "num_subbands", 2), "num_subbands 2, but .* has 16 inputs"),
        ("mdx23c", set_option("audio", "dim_f", 64), "dim_f 64, .* 32 bins per subband"),
        ("mdx23c", set_option("audio", "n_fft", 128), "n_fft is 128 with 128 bins"),
        ("moises_light", set_option("model", "n_rope", 2), "n_rope is 2, but .* has 1"),
        ("moises_light", set_option("model", "win_size", 128), "win_size is 128, but .* has 256"),
        ("moises_light", set_option("model", "act_name", "GELU"), "act_name is GELU: only ReLU"),
        ("moises_light", set_option("model", "audio_channels", 1), "audio_channels is 1, .* has 4"),
        (
            "moises_light",
            set_option("model", "transformer_params", {"heads": 4}),
            "transformer_params.heads is 4, but .* has 2",
        ),
        (
            "moises_light",
            set_option("model", "transformer_params", [4]),
            r"transformer_params is \[4\], options were expected",
        ),
        ("moises_light", without_weight("freq_pad"), "has no weights 'freq_pad'"),
        ("mdx23c", without_weight("final_conv.0.weight"), "has no weights 'final_conv.0.weight'"),
    ],
)  # fmt: skip
def test_files_of_other_types_that_contradict_each_other(
    kind: str, change: Callable[[Path, Path], None], message: str, tmp_path: Path
) -> None:
    _, config, weights = write(tmp_path, kind, ["vocals", "other"])
    change(config, weights)
    with pytest.raises(CheckpointError, match=message) as error:
        msst.load(config, weights)
    assert str(tmp_path) in str(error.value)


def test_unknown_settings_are_listed(tmp_path: Path) -> None:
    _, config, weights = write(tmp_path, "bs_roformer", ["vocals", "other"])
    contents: dict[str, Any] = yaml.unsafe_load(config.read_text())
    contents["model"] |= {"new_idea": 3, "sage_attention": True}
    config.write_text(yaml.dump(contents))
    notes = msst.load(config, weights).notes
    assert [note.partition(": ")[2] for note in notes] == [
        "not needed: model.dim_freqs_in, model.sage_attention",
        "unknown, ignored: model.new_idea",
    ]
