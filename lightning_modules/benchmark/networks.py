"""Candidates of the benchmarks: models of this project's configs, networks of other packages.

Networks of other packages have random weights: only their speed is measured.
"""

from __future__ import annotations

import argparse
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from datamodules.batches import Batch
from datamodules.errors import DataError
from datamodules.tracks.layouts import STEMS
from lightning_modules.base.flops import forward_flops
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain
from lightning_modules.losses import SpectralRMSE


class Candidate(ABC):
    """A network that can be trained and can separate.

    Attributes:
        network: Module that holds the parameters.
        sources: Number of sources.
        channels: Number of audio channels.
        sample_rate: Hz.
        flops: Floating-point operations of a forward pass per sample; 0 if not counted.
    """

    network: nn.Module
    sources: int = len(STEMS)
    channels: int = 2
    sample_rate: int = 44100
    flops: float = 0.0

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Training loss of a batch."""

    @abstractmethod
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate a mixture (C, T) into estimates (S, C, T), as the project itself does."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Optimizer of the project's own training."""
        return Adam(self.network.parameters())


class ConfiguredModel(Candidate):
    """Model of a config with more settings, as on the command line."""

    def __init__(self, name: str, settings: list[str], device: str) -> None:
        self.network = self.model = build_model(name, settings).model.to(device)
        self.model.setup("fit")
        self.sources, self.channels = len(self.model.sources), self.model.audio_channels
        self.sample_rate = self.model.sample_rate
        self.flops = forward_flops(self.model)

    def loss(self, batch: Batch) -> Tensor:
        """The model's loss."""
        return self.model.loss(batch)["loss"]

    def separate(self, mixture: Tensor) -> Tensor:
        """In overlapping chunks."""
        self.model.eval()
        return self.model.separate(mixture)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The config's optimizer."""
        if not self.model.automatic_optimization or not any(
            parameter.requires_grad for parameter in self.model.parameters()
        ):
            raise DataError("is not trained by gradients")
        return self.model.create_optimizer()


class OpenUnmixPackage(Candidate):
    """The ``openunmix`` package's network as published, one per source (Stöter et al. 2019)."""

    def __init__(self, device: str, hidden_size: int = 512) -> None:
        model = _import_package("openunmix.model")
        transforms = _import_package("openunmix.transforms")
        utils = _import_package("openunmix.utils")
        bins = utils.bandwidth_to_max_bin(self.sample_rate, 4096, 16000)
        sizes = {"nb_bins": 2049, "nb_channels": 2, "hidden_size": hidden_size, "max_bin": bins}
        networks = {stem: model.OpenUnmix(**sizes) for stem in STEMS}
        stft, _ = transforms.make_filterbanks(4096, 1024, sample_rate=self.sample_rate)
        self.spectrogram = nn.Sequential(stft, model.ComplexNorm(mono=False)).to(device)
        self.network = nn.ModuleDict(networks).to(device)
        self.separator = model.Separator(networks, niter=0, nb_channels=2).to(device)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Optimizer of the package's training script."""
        return Adam(self.network.parameters(), lr=1e-3, weight_decay=1e-5)

    def loss(self, batch: Batch) -> Tensor:
        """Squared error of magnitudes, summed over the sources."""
        mixture = self.spectrogram(batch.mixture)
        pairs = zip(self.network.children(), batch.targets.unbind(1), strict=True)
        errors = [
            # The package's STFT requires contiguous memory.
            nn.functional.mse_loss(network(mixture), self.spectrogram(target.contiguous()))
            for network, target in pairs
        ]
        return torch.stack(errors).sum()

    def separate(self, mixture: Tensor) -> Tensor:
        """The whole track at once, with the mixture's phase and without a Wiener filter."""
        self.separator.eval()
        with torch.no_grad():
            estimates: Tensor = self.separator(mixture[None])
        return estimates[0]


class DemucsPackage(Candidate):
    """The ``demucs`` package's time-domain Demucs (Défossez et al. 2019)."""

    def __init__(self, device: str, channels: int = 64) -> None:
        module = _import_package("demucs.demucs")
        self.network = module.Demucs(list(STEMS), channels=channels).to(device)

    def loss(self, batch: Batch) -> Tensor:
        """L1 distance of waveforms, without the package's augmentation."""
        return nn.functional.l1_loss(self.network(batch.mixture), batch.targets)

    def separate(self, mixture: Tensor) -> Tensor:
        """In overlapping chunks, without shifts."""
        self.network.eval()
        settings = {"shifts": 0, "split": True, "overlap": 0.25}
        with torch.no_grad():
            apply_model = _import_package("demucs.apply").apply_model
            estimates: Tensor = apply_model(self.network, mixture[None], **settings)
        return estimates[0]


class HTDemucsPackage(DemucsPackage):
    """The ``demucs`` package's HTDemucs, of the size of the published one by default."""

    def __init__(self, device: str, channels: int = 48, features: int = 512) -> None:
        module = _import_package("demucs.htdemucs")
        self.network = module.HTDemucs(
            list(STEMS), channels=channels, bottom_channels=features, dconv_mode=3, segment=7.8
        ).to(device)


class MSSTPackage(Candidate):
    """A network of the package ``msst``.

    Args:
        kind: Type in ``msst``.
        device: Torch device.
        audio: Section ``audio`` of its config.
        model: Section ``model`` of its config.
        overlaps: Number of chunks that cover a sample in separation.
    """

    def __init__(
        self,
        kind: str,
        device: str,
        audio: Mapping[str, Any],
        model: Mapping[str, Any],
        overlaps: int = 2,
    ) -> None:
        self.kind = kind
        self.settings = _import_package("ml_collections").ConfigDict(
            {
                "audio": {"num_channels": self.channels, **audio},
                "model": dict(model),
                "training": {"instruments": list(STEMS), "target_instrument": None},
                "inference": {"num_overlap": overlaps, "batch_size": 1},
            }
        )
        build = _import_package("msst.utils.settings").build_model_from_config
        self.network = build(kind, self.settings).to(device)

    def separate(self, mixture: Tensor) -> Tensor:
        """By the package's ``demix``."""
        self.network.eval()
        demix = _import_package("msst.utils.model_utils").demix
        signals, device = mixture.cpu().numpy(), mixture.device
        stems = demix(self.settings, self.network, signals, device, self.kind)
        return torch.stack([torch.from_numpy(stems[stem]) for stem in STEMS])


class RoFormerPackage(MSSTPackage):
    """A RoFormer of the package ``msst``, of the size of the variants ``medium``.

    Args:
        kind: ``bs_roformer`` or ``mel_band_roformer``.
        device: Torch device.
        features: Features of a band.
        chunk_seconds: Length of a chunk in separation.
    """

    def __init__(self, kind: str, device: str, features: int = 128, chunk_seconds: int = 8) -> None:
        hidden_layers = {"bs_roformer": 2, "mel_band_roformer": 1}[kind]  # counted differently
        model = {
            "dim": features, "depth": 4, "dim_head": 64, "heads": 8, "stereo": True,
            "num_stems": len(STEMS), "time_transformer_depth": 1, "freq_transformer_depth": 1,
            "stft_hop_length": 441, "mask_estimator_depth": hidden_layers, "attn_dropout": 0.0,
            "ff_dropout": 0.0,
        }  # fmt: skip
        super().__init__(kind, device, {"chunk_size": chunk_seconds * self.sample_rate}, model)

    def loss(self, batch: Batch) -> Tensor:
        """The package's loss, which equals that of our model."""
        loss: Tensor = self.network(batch.mixture, target=batch.targets)
        return loss


class SCNetPackage(MSSTPackage):
    """The SCNet of the package ``msst``, of the size of ``scnet.yaml``.

    Args:
        device: Torch device.
        **model: More settings of its section ``model``.
    """

    def __init__(self, device: str, **model: Any) -> None:
        given = {"sources": list(STEMS), **model}
        super().__init__("scnet", device, {"chunk_size": 11 * self.sample_rate}, given)
        frames = (given.get("nfft", 4096), given.get("hop_size", 1024))
        self.loss_function = SpectralRMSE(*frames)

    def loss(self, batch: Batch) -> Tensor:
        """The package's loss; by our class, as the package's module needs more packages."""
        losses: Tensor = self.loss_function(
            self.network(batch.mixture), batch.targets, batch.mixture
        )
        return losses.mean()


class MDX23CPackage(MSSTPackage):
    """The TFC-TDF v3 of the package ``msst``, of the size of ``tfc_tdf.yaml``.

    Args:
        device: Torch device.
        audio: More settings of its section ``audio``.
        **model: More settings of its section ``model``.
    """

    def __init__(self, device: str, audio: Mapping[str, int] | None = None, **model: Any) -> None:
        given_audio = {
            "chunk_size": 261_120, "n_fft": 8192, "hop_length": 1024, "dim_f": 4096,
            **(audio or {}),
        }  # fmt: skip
        given = {
            "norm": "InstanceNorm", "act": "gelu", "num_channels": 128, "growth": 128,
            "num_scales": 5, "scale": [2, 2], "num_blocks_per_scale": 2, "bottleneck_factor": 4,
            "num_subbands": 4, **model,
        }  # fmt: skip
        super().__init__("mdx23c", device, given_audio, given, overlaps=4)

    def loss(self, batch: Batch) -> Tensor:
        """Squared error, of batches that are padded to a length that the network accepts."""
        hop, multiple = (
            self.settings.audio.hop_length,
            self.settings.model.scale[0] ** self.settings.model.num_scales,
        )
        samples = batch.mixture.shape[-1]
        frames = -(-samples // hop) + 1
        padded = hop * (frames + -frames % multiple - 1)
        mixture = nn.functional.pad(batch.mixture, (0, padded - samples))
        return nn.functional.mse_loss(self.network(mixture)[..., :samples], batch.targets)


PEERS: dict[str, Callable[[str], Candidate]] = {
    "openunmix": OpenUnmixPackage,
    "demucs": DemucsPackage,
    "htdemucs": HTDemucsPackage,
    "bs_roformer": partial(RoFormerPackage, "bs_roformer"),
    "mel_band_roformer": partial(RoFormerPackage, "mel_band_roformer"),
    "scnet": SCNetPackage,
    "mdx23c": MDX23CPackage,
}


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Add configs and ``--peers`` to a command line."""
    parser.add_argument(
        "configs", nargs="*", default=["unet/small"], metavar="CONFIG",
        help="configs of models (default unet/small)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=list(PEERS), default=["openunmix", "demucs"],
        help=f"networks of other packages, of {', '.join(PEERS)} (default openunmix demucs)",
    )  # fmt: skip


def check_candidates(options: argparse.Namespace) -> None:
    """Raise ``ConfigError`` if a config does not exist."""
    for name in options.configs:
        chain(name)


def candidates_of(
    configs: list[str], peers: list[str], settings: list[str], device: str
) -> dict[str, Callable[[], Candidate]]:
    """Return constructors of candidates by name.

    Args:
        configs: Configs of models.
        peers: Keys of ``PEERS``.
        settings: More settings of the configs, as on the command line.
        device: Torch device.
    """
    found: dict[str, Callable[[], Candidate]] = {
        name: partial(ConfiguredModel, name, settings, device) for name in configs
    }
    return found | {f"{name} (package)": partial(PEERS[name], device) for name in peers}


def _import_package(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = package if (error.name or package).startswith(package) else error.name
        raise DataError(f"{missing} is not installed: pip install {package!r}") from error
