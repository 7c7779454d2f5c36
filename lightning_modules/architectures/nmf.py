"""Supervised non-negative matrix factorisation (NMF) and factor deconvolution (NMFD).

Goel, Huang, Owoputi and Poudyal, section 3.5, after Smaragdis 2004, "Non-negative matrix factor
deconvolution; extraction of multiple sound sources from monophonic inputs". Each source has
templates, learned from its own spectrograms in the training data. A mixture's spectrogram is
approximated with the templates of all sources; the part that a source's templates contribute
gives its share of each bin (Wiener filtering of magnitudes, as in the NMF toolbox of
López-Serrano et al. 2019).

The paper initialises templates with means of the sources' spectra and activations with ones in
its text, but templates at random in its Table 3: both are options. It also factorises each song
with four components without training, which needs the true sources to assign components: see the
oracle ``blind_nmfd`` in ``lightning_modules.evaluation.oracles``. The J of its equation 4 has the
shape of the spectrogram here, without which the product is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD

from datamodules.batches import Batch
from datamodules.tracks.sources import check_sources
from lightning_modules.base.spectrogram import Mask, SpectrogramSeparator
from lightning_modules.layers import factorisation

# Weight of the initial templates relative to the sums of a batch.
_INITIAL_WEIGHT = 1e-3
# Random part of templates initialised with means: no bin stays at zero, no two are equal.
_RANDOM_PART = 0.1


class NMF(SpectrogramSeparator):
    """Spectral (NMF) or spectro-temporal (NMFD) templates per source.

    A training step computes the activations of the current templates in each source of a batch,
    and the numerators and denominators of the multiplicative update of the templates. These sums
    s are averaged over batches, s <- s + step_size (sums of the batch - s), as in online
    expectation maximisation (Cappé and Moulines 2009), and their ratio gives the templates. The
    update is a gradient descent step on the sums, so DDP, gradient accumulation, skipped steps and
    schedulers work as for networks.

    Channels are factorised independently, with the same templates.

    Args:
        sources: Names of the sources, in the order of the estimates.
        rank: Number of templates per source, or a mapping from sources to numbers.
        template_frames: Frames per template: 1 is NMF, more is NMFD.
        iterations: Updates of the activations, starting at ones, in training and separation.
        initial_templates: ``data``, means over parts of the first batch; or ``random``.
        adapt_templates: Also update the templates in separation, starting from the learned ones
            in each chunk.
        step_size: Weight of a batch in the averaged sums, in (0, 1].
        mask: As in ``SpectrogramSeparator``; ``ratio`` is the Wiener filter.
        n_fft: Length of the STFT's window, samples.
        hop_length: Hop of the STFT, samples.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    changeable_hparams = SpectrogramSeparator.changeable_hparams | {
        "iterations",
        "initial_templates",
        "adapt_templates",
        "step_size",
    }
    fixed_arguments = frozenset({"magnitude_scale", "loss_function"})
    tiny: ClassVar[Mapping[str, Any]] = {
        "rank": 2,
        "iterations": 3,
        "n_fft": 512,
        "hop_length": 256,
    }

    def __init__(
        self,
        sources: list[str],
        rank: int | dict[str, int] = 32,
        template_frames: int = 1,
        iterations: int = 30,
        initial_templates: Literal["random", "data"] = "data",
        adapt_templates: bool = False,
        step_size: float = 0.1,
        mask: Mask = "ratio",
        n_fft: int = 4096,
        hop_length: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources,
            optimizer=partial(SGD, lr=step_size),
            mask=mask,
            n_fft=n_fft,
            hop_length=hop_length,
            magnitude_scale="linear",
            **kwargs,
        )
        ranks = rank if isinstance(rank, dict) else dict.fromkeys(sources, rank)
        check_sources(list(ranks), sources, "rank")
        if min(*ranks.values(), template_frames, iterations) < 1:
            raise ValueError(
                f"rank is {rank}, template_frames {template_frames}, iterations {iterations}: "
                "use numbers >= 1"
            )
        if initial_templates not in ("random", "data"):
            raise ValueError(f"initial_templates is {initial_templates!r}: use random or data")
        if not 0 < step_size <= 1:
            raise ValueError(f"step_size is {step_size}: give a number above 0, up to 1")
        self.ranks = [ranks[name] for name in sources]
        self.iterations = iterations
        self.initial_templates, self.adapt_templates = initial_templates, adapt_templates
        shape = (len(sources), n_fft // 2 + 1, max(self.ranks), template_frames)
        # Averaged terms of the update, whose ratio is the templates: (S, F, R, P), (S, 1, R, P).
        self.numerators = nn.Parameter(torch.empty(shape))
        self.denominators = nn.Parameter(torch.empty(shape[0], 1, *shape[2:]))
        self._initialise(torch.rand(shape))

    @torch.no_grad()
    def _initialise(self, templates: Tensor) -> None:
        for source, rank in enumerate(self.ranks):
            templates[source, :, rank:] = 0  # multiplicative updates keep zeros
        self.numerators.copy_(_INITIAL_WEIGHT * factorisation.normalised(templates))
        self.denominators.fill_(_INITIAL_WEIGHT)

    def templates(self) -> Tensor:
        """Templates of each source, normalised to a sum of one, shape (S, F, R, P)."""
        templates = self.numerators / self.denominators
        return factorisation.normalised(templates.detach().float())

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Approximate magnitudes (B, C, F, N) by each source's templates, (B, S, C, F, N).

        NaN and infinity count as silence, so that they do not spread to the whole chunk.
        """
        spectra = mixture.float().nan_to_num(0.0, 0.0, 0.0).flatten(0, 1)  # (B C, F, N)
        templates = self.templates().movedim(0, 1).flatten(1, 2)  # (F, S R, P)
        with torch.autocast(mixture.device.type, enabled=False):
            if self.adapt_templates:
                # (B C, F, 1, N): templates are adapted to each signal separately.
                spectra = spectra[:, :, None]
                templates = templates.expand(len(spectra), *templates.shape)
            else:
                spectra = spectra.transpose(0, 1)  # (F, B C, N)
            templates, activations = factorisation.factorise(
                spectra, templates, self.iterations, self.adapt_templates
            )
            estimates = factorisation.reconstruct(
                templates.unflatten(-2, (len(self.sources), -1)).movedim(-3, 0),
                activations.unflatten(-3, (len(self.sources), -1)).movedim(-4, 0),
            )  # (S, B C, F, 1, N), or (S, F, B C, N)
        if self.adapt_templates:
            estimates = estimates[..., 0, :].transpose(1, 2)
        signals: Tensor = estimates.unflatten(2, mixture.shape[:2])  # (S, F, B, C, N)
        return signals.permute(2, 0, 3, 1, 4)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Divergence between each source and its factorisation, mean over bins."""
        with torch.autocast(batch.targets.device.type, enabled=False):
            spectra, templates = self._spectrograms(batch), self.templates()
            with torch.no_grad():
                _, activations = factorisation.factorise(spectra, templates, self.iterations, False)
                model = factorisation.reconstruct(templates, activations)
                distances = factorisation.divergence(spectra, model) / spectra[0].numel()
            loss = distances.sum()
            if torch.is_grad_enabled():
                sums = factorisation.template_sums(spectra, templates, activations)
                frames = spectra[0, 0].numel()
                loss = loss + self._surrogate(*(part / frames for part in sums))
        return {"loss": loss, **self.source_losses(distances)}

    def _surrogate(self, numerators: Tensor, denominators: Tensor) -> Tensor:
        """A loss of zero with the gradient average - sums, so that SGD averages the sums."""
        surrogate = torch.zeros((), device=self.device)
        active = denominators > 0  # templates without activations keep their sums
        for average, sums in ((self.numerators, numerators), (self.denominators, denominators)):
            gradient = torch.where(active, average.detach() - sums, 0)
            surrogate = surrogate + ((average - average.detach()) * gradient).sum()
        return surrogate

    def _spectrograms(self, batch: Batch) -> Tensor:
        """The sources' magnitudes, shape (S, F, B C, N)."""
        magnitudes = self.stft(batch.targets).abs()  # (B, S, C, F, N)
        return magnitudes.permute(1, 3, 0, 2, 4).flatten(2, 3)

    @torch.no_grad()
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Initialise templates from the first batch if ``initial_templates`` is ``data``."""
        if self.initial_templates == "data" and batch_idx == 0 and self.trainer.global_step == 0:
            means = mean_excerpts(self._spectrograms(batch), *self.numerators.shape[2:])
            means = factorisation.normalised(means.nan_to_num(0.0, 0.0, 0.0))
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
            noise = factorisation.normalised(torch.rand(means.shape)).to(means)
            self._initialise(means + _RANDOM_PART * self.trainer.strategy.broadcast(noise))


def mean_excerpts(magnitudes: Tensor, rank: int, frames: int) -> Tensor:
    """Split spectrograms (S, F, G, N) into R parts and average the excerpts of P frames of each.

    Returns the means, shape (S, F, R, P).
    """
    joined = magnitudes.flatten(2)  # (S, F, G N)
    length = max(1, joined.shape[-1] // (rank * frames)) * frames
    # Spectrograms shorter than R x P frames are repeated.
    starts = torch.arange(rank, device=joined.device) * length
    places = starts[:, None] + torch.arange(length, device=joined.device)
    parts = joined[..., places % joined.shape[-1]]  # (S, F, R, length)
    means: Tensor = parts.unflatten(-1, (-1, frames)).mean(-2)
    return means
