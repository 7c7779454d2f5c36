"""What is compared: models of this project's configs, and networks of other projects.

Other projects' networks have random weights: only their speed is looked at.
"""

from __future__ import annotations

import argparse
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from datamodules.batches import Batch
from datamodules.errors import DataError
from datamodules.tracks.layouts import STEMS
from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain


class Entrant(ABC):
    """A network that can be trained and can separate.

    Attributes:
        sources: Number of sources.
        channels: Number of audio channels.
        sample_rate: Hz.
        flops: Floating-point operations of a forward pass, for each sample; 0 if not counted.
    """

    sources: int = len(STEMS)
    channels: int = 2
    sample_rate: int = 44100
    flops: float = 0.0

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """What holds the parameters."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """What its training minimises, for a batch."""

    @abstractmethod
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate a mixture (C, T) to estimates (S, C, T), as its own project does."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser that its training uses."""
        return Adam(self.network.parameters())


class Ours(Entrant):
    """A model of a config.

    Args:
        name: The config; see ``config_files.chain``.
        settings: More settings, as on the command line.
        device: Torch device.
    """

    def __init__(self, name: str, settings: list[str], device: str) -> None:
        self.model: SourceSeparator = build_model(name, settings).model.to(device)
        self.model.setup("fit")
        self.sources, self.channels = len(self.model.sources), self.model.audio_channels
        self.sample_rate = self.model.sample_rate
        self.flops = forward_flops(self.model)

    @property
    def network(self) -> nn.Module:
        """The model itself."""
        return self.model

    def loss(self, batch: Batch) -> Tensor:
        """The model's loss."""
        return self.model.loss(batch)["loss"]

    def separate(self, mixture: Tensor) -> Tensor:
        """By the one inference path of all models."""
        self.model.eval()
        return self.model.separate(mixture)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The config's optimiser."""
        if not self.model.automatic_optimization or not any(
            parameter.requires_grad for parameter in self.model.parameters()
        ):
            raise DataError("is not trained by gradients")
        return self.model.optimizer(self.model.parameters())


class OpenUnmix(Entrant):
    """The network of the ``openunmix`` package as published, one a source (Stöter et al. 2019).

    Args:
        device: Torch device.
    """

    def __init__(self, device: str) -> None:
        model, transforms = peer("openunmix.model"), peer("openunmix.transforms")
        bins = peer("openunmix.utils").bandwidth_to_max_bin(self.sample_rate, 4096, 16000)
        networks = {
            stem: model.OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=512, max_bin=bins)
            for stem in STEMS
        }
        stft, _ = transforms.make_filterbanks(4096, 1024, sample_rate=self.sample_rate)
        self.spectrogram = nn.Sequential(stft, model.ComplexNorm(mono=False)).to(device)
        self.networks = nn.ModuleDict(networks).to(device)
        self.separator = model.Separator(networks, niter=0, nb_channels=2).to(device)

    @property
    def network(self) -> nn.Module:
        """All four networks."""
        return self.networks

    def loss(self, batch: Batch) -> Tensor:
        """Squared error of magnitudes, summed over the sources."""
        mixture = self.spectrogram(batch.mixture)
        errors = [
            # Its transform wants one block of memory.
            nn.functional.mse_loss(network(mixture), self.spectrogram(target.contiguous()))
            for network, target in zip(self.networks.values(), batch.targets.unbind(1), strict=True)
        ]
        return torch.stack(errors).sum()

    def separate(self, mixture: Tensor) -> Tensor:
        """The whole track at once, with the mixture's phase and no Wiener filter."""
        self.separator.eval()
        with torch.no_grad():
            estimates: Tensor = self.separator(mixture[None])
        return estimates[0]


class Demucs(Entrant):
    """The time-domain Demucs of the ``demucs`` package (Défossez et al. 2019), 64 channels.

    Args:
        device: Torch device.
    """

    def __init__(self, device: str) -> None:
        # Its augmentation is no part of a step.
        self.model = peer("demucs.demucs").Demucs(list(STEMS), channels=64).to(device)

    @property
    def network(self) -> nn.Module:
        """The network."""
        network: nn.Module = self.model
        return network

    def loss(self, batch: Batch) -> Tensor:
        """L1 distance of waveforms."""
        return nn.functional.l1_loss(self.model(batch.mixture), batch.targets)

    def separate(self, mixture: Tensor) -> Tensor:
        """In overlapping chunks, without shifts."""
        self.model.eval()
        apply_model = peer("demucs.apply").apply_model
        with torch.no_grad():
            estimates: Tensor = apply_model(
                self.model, mixture[None], shifts=0, split=True, overlap=0.25
            )
        return estimates[0]


PEERS: dict[str, Callable[[str], Entrant]] = {"openunmix": OpenUnmix, "demucs": Demucs}


def add_entrants(parser: argparse.ArgumentParser) -> None:
    """Say who may take part.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument(
        "configs", nargs="*", default=["unet/small"], metavar="CONFIG",
        help="configs of models, as unet/small or unet+my_variant (default unet/small)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=list(PEERS), default=list(PEERS),
        help=f"other projects' networks, of {', '.join(PEERS)} (default all)",
    )  # fmt: skip


def check_entrants(options: argparse.Namespace) -> None:
    """Refuse configs that are not there.

    Args:
        options: What ``add_entrants`` asked for.

    Raises:
        ConfigError: A config does not exist.
    """
    for name in options.configs:
        chain(name)


def entrants_of(
    names: list[str], peers: list[str], settings: list[str], device: str
) -> dict[str, Callable[[], Entrant]]:
    """Name those who take part; nobody is built yet.

    Args:
        names: Configs.
        peers: Keys of ``PEERS``.
        settings: More settings for the configs, as on the command line.
        device: Torch device.

    Returns:
        Name -> what builds it.
    """
    found: dict[str, Callable[[], Entrant]] = {
        name: partial(Ours, name, settings, device) for name in names
    }
    return found | {f"{name} (package)": partial(PEERS[name], device) for name in peers}


def peer(module: str) -> Any:
    """Import a module of another project.

    Args:
        module: Its dotted name.

    Raises:
        DataError: The project, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = package if (error.name or package).startswith(package) else error.name
        raise DataError(f"{missing} is not installed: pip install {package!r}") from error
