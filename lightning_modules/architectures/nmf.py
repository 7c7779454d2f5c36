"""Non-negative matrix factorisation (NMF), and factor deconvolution (NMFD), with learned templates.

Goel, Huang, Owoputi and Poudyal, section 3.5, after Smaragdis 2004, "Non-negative matrix factor
deconvolution; extraction of multiple sound sources from monophonic inputs". Each source has
templates, learned from its own spectrograms in the training data. A mixture's spectrogram is
explained by the templates of all sources together; what those of one source explain is its
share of each bin (Wiener filtering of magnitudes, as in the NMF toolbox of López-Serrano et al.
2019).

The paper contradicts itself: by its text templates begin as means of the sources' sounds and
activations as ones, by its Table 3 templates are random. Both are options here. It factorises
each song with four components and no training; that needs the true sources to tell which
component is which, so it is an oracle, ``blind_nmfd`` of
``lightning_modules.evaluation.oracles``, and no model. The J of its equation 4 is as large as
the spectrogram here, without which the product is not defined.
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

# What the initial templates weigh against those of the first batch.
_INITIAL_WEIGHT = 1e-3
# Random part of templates that begin as means: no bin is locked at zero, no two are equal.
_RANDOM_PART = 0.1


class NMF(SpectrogramSeparator):
    """Templates of spectra (NMF) or of a few frames (NMFD) for each source.

    Training finds the activations of the templates at hand in each source of a batch, and from
    them the sums whose ratio is the multiplicative update of the templates. Sums of all batches
    so far are averaged, s <- s + step_size (sums of the batch - s), with which templates follow
    as in on-line expectation maximisation (Cappé and Moulines 2009). That is a step of gradient
    descent on the sums: ranks, accumulated batches, skipped steps and schedulers are Lightning's.

    Channels are factorised each by itself, with the same templates.

    Args:
        sources: Names of the sources, in the order of the estimates.
        rank: Templates of each source, or of all by name.
        template_frames: Frames of a template: 1 is NMF, more is NMFD.
        iterations: Updates of the activations, from ones on, in training and separation.
        initial_templates: ``data``, means over parts of the first batch; or ``random``.
        adapt_templates: Let separation update the templates, too, each chunk from those
            that were learned.
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
    fixed_arguments = frozenset({"magnitude_scale"})
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
                "give numbers from 1 on"
            )
        if initial_templates not in ("random", "data"):
            raise ValueError(f"initial_templates is {initial_templates!r}: give random or data")
        if not 0 < step_size <= 1:
            raise ValueError(f"step_size is {step_size}: give a number above 0, up to 1")
        self.ranks = [ranks[name] for name in sources]
        self.iterations = iterations
        self.initial_templates, self.adapt_templates = initial_templates, adapt_templates
        shape = (len(sources), n_fft // 2 + 1, max(self.ranks), template_frames)
        # What the update divides to get the templates, averaged: (S, F, R, P) and (S, 1, R, P).
        self.numerators = nn.Parameter(torch.empty(shape))
        self.denominators = nn.Parameter(torch.empty(shape[0], 1, *shape[2:]))
        self._begin_with(torch.rand(shape))

    @torch.no_grad()
    def _begin_with(self, templates: Tensor) -> None:
        for source, rank in enumerate(self.ranks):
            templates[source, :, rank:] = 0  # zeros stay zeros
        self.numerators.copy_(_INITIAL_WEIGHT * factorisation.normalised(templates))
        self.denominators.fill_(_INITIAL_WEIGHT)

    def templates(self) -> Tensor:
        """Templates of each source, with a sum of one, shape (S, F, R, P)."""
        templates = self.numerators / self.denominators
        return factorisation.normalised(templates.detach().float())

    # ------------------------------------------------------------ separation

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Explain magnitudes (B, C, F, N) by the sources' templates, as (B, S, C, F, N).

        Those that are NaN or infinite count as silence, lest they spoil the whole chunk.
        """
        batch = mixture.shape[0]
        found = mixture.float().nan_to_num(0.0, 0.0, 0.0).flatten(0, 1)  # (B C, F, N)
        templates = self.templates().movedim(0, 1).flatten(1, 2)  # (F, S R, P)
        with torch.autocast(mixture.device.type, enabled=False):
            if self.adapt_templates:
                # (B C, F, 1, N): each signal has templates of its own.
                found = found[:, :, None]
                templates = templates.expand(len(found), *templates.shape)
            else:
                found = found.transpose(0, 1)  # (F, B C, N)
            adapted, activations = factorisation.factorise(
                found, templates, self.iterations, self.adapt_templates
            )
            estimates = factorisation.reconstruct(
                adapted.unflatten(-2, (len(self.sources), -1)).movedim(-3, 0),
                activations.unflatten(-3, (len(self.sources), -1)).movedim(-4, 0),
            )  # (S, B C, F, 1, N), or (S, F, B C, N)
        if self.adapt_templates:
            estimates = estimates[..., 0, :].transpose(1, 2)
        signals: Tensor = estimates.unflatten(2, (batch, -1))  # (S, F, B, C, N)
        return signals.permute(2, 0, 3, 1, 4)

    # -------------------------------------------------------------- training

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Divergence of each source from what its own templates explain, mean over bins."""
        with torch.autocast(batch.targets.device.type, enabled=False):
            found, templates = self._spectrograms(batch), self.templates()
            with torch.no_grad():
                _, activations = factorisation.factorise(found, templates, self.iterations, False)
                model = factorisation.reconstruct(templates, activations)
                distances = factorisation.divergence(found, model) / found[0].numel()
            loss = distances.sum()
            if torch.is_grad_enabled():
                sums = factorisation.template_sums(found, templates, activations)
                frames = found[0, 0].numel()
                loss = loss + self._pull(*(part / frames for part in sums))
        return {"loss": loss, **self.source_losses(distances)}

    def _pull(self, numerators: Tensor, denominators: Tensor) -> Tensor:
        """Zero, whose gradient takes the averaged sums to those of a batch."""
        pull = torch.zeros((), device=self.device)
        heard = denominators > 0  # a template that does not sound stays what it was
        for average, sums in ((self.numerators, numerators), (self.denominators, denominators)):
            gradient = torch.where(heard, average.detach() - sums, 0)
            pull = pull + ((average - average.detach()) * gradient).sum()
        return pull

    def _spectrograms(self, batch: Batch) -> Tensor:
        """The sources' magnitudes, shape (S, F, B C, N)."""
        magnitudes = self.stft(batch.targets).abs()  # (B, S, C, F, N)
        return magnitudes.permute(1, 3, 0, 2, 4).flatten(2, 3)

    @torch.no_grad()
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take templates from the first batch, if they are to begin with data."""
        if self.initial_templates == "data" and batch_idx == 0 and self.trainer.global_step == 0:
            means = mean_excerpts(self._spectrograms(batch), *self.numerators.shape[2:])
            means = factorisation.normalised(means.nan_to_num(0.0, 0.0, 0.0))
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
            noise = factorisation.normalised(torch.rand(means.shape)).to(means)
            self._begin_with(means + _RANDOM_PART * self.trainer.strategy.broadcast(noise))


def mean_excerpts(magnitudes: Tensor, rank: int, frames: int) -> Tensor:
    """Average excerpts over as many stretches of music as templates are wanted.

    Args:
        magnitudes: Spectrograms, shape (S, F, G, N).
        rank: Number of templates, R.
        frames: Frames of a template, P.

    Returns:
        Means of consecutive excerpts, shape (S, F, R, P).
    """
    joined = magnitudes.flatten(2)  # (S, F, G N)
    length = max(1, joined.shape[-1] // (rank * frames)) * frames
    # Too little music is repeated.
    starts = torch.arange(rank, device=joined.device) * length
    places = starts[:, None] + torch.arange(length, device=joined.device)
    stretches = joined[..., places % joined.shape[-1]]  # (S, F, R, length)
    means: Tensor = stretches.unflatten(-1, (-1, frames)).mean(-2)
    return means
