"""Optimisers and learning rate schedules, selected in a config by ``class_path``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler


class MuonAdamW(Optimizer):
    """Muon for weight matrices, AdamW for all other weights.

    Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein 2024, "Muon: an optimizer for hidden
    layers in neural networks", with updates scaled to those of AdamW (Liu et al. 2025, "Muon is
    scalable for LLM training"), so that one learning rate and weight decay suits both.

    Weights with another number of axes than two, such as convolutions, biases and gains, are
    trained by AdamW. ``parameter_groups`` of the model can give it further ones: ``muon: 0``.

    Args:
        params: Weights, or groups of them.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        momentum: Momentum of Muon.
        betas: Decays of AdamW's averages.
        eps: Added to denominators.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": tuple(betas),
            "eps": eps, "muon": True, "adjust_lr_fn": "match_rms_adamw",
        }  # fmt: skip
        super().__init__(params, defaults)
        split: list[dict[str, Any]] = []
        for group in self.param_groups:
            matrices = [each for each in group["params"] if group["muon"] and each.ndim == 2]
            chosen = {id(each) for each in matrices}
            others = [each for each in group["params"] if id(each) not in chosen]
            split += [
                {**group, "params": parameters, "muon": is_muon}
                for parameters, is_muon in ((matrices, True), (others, False))
                if parameters
            ]
        self.param_groups = split
        # They add their further settings to these groups. Those that the groups hold are given to
        # be checked.
        kinds: dict[bool, Callable[[Any], Optimizer]] = {
            True: partial(Muon, lr=lr, weight_decay=weight_decay, momentum=momentum),
            False: partial(AdamW, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps),
        }
        self._parts = {
            is_muon: kind(groups)
            for is_muon, kind in kinds.items()
            if (groups := self._groups(is_muon))
        }

    def _groups(self, is_muon: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["muon"] == is_muon]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for is_muon, optimizer in self._parts.items():
            # Loading a state replaces both.
            optimizer.param_groups, optimizer.state = self._groups(is_muon), self.state
            optimizer.step()
        return loss


class WarmUpCosine(LRScheduler):
    """Learning rate that rises linearly, then falls to its lowest value along a cosine.

    Of step n, from 0 on, the rate is multiplied by ``(n + 1) / warm_up_steps``, and after the warm-
    up by ``low + (1 - low) (1 + cos(pi p)) / 2``, where p rises from 0 to 1 at ``total_steps``
    (Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without
    restarts).

    Args:
        optimizer: The optimiser.
        warm_up_steps: Steps of the rise; 0 for none.
        total_steps: Steps until the lowest rate is reached, with the rise.
        lowest_factor: Lowest rate, relative to that of the optimiser.
    """

    interval = "step"
    """The model lets Lightning step it after each optimiser step, not after each epoch."""

    def __init__(
        self,
        optimizer: Optimizer,
        warm_up_steps: int,
        total_steps: int,
        lowest_factor: float = 0.0,
    ) -> None:
        if not 0 <= warm_up_steps < total_steps:
            raise ValueError(
                f"warm_up_steps is {warm_up_steps} and total_steps {total_steps}: give a number "
                "from 0 on, and a larger one"
            )
        if not 0 <= lowest_factor <= 1:
            raise ValueError(f"lowest_factor is {lowest_factor}: give a number from 0 to 1")
        self.warm_up_steps, self.total_steps = warm_up_steps, total_steps
        self.lowest_factor = lowest_factor
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Learning rate of each group for the next step."""
        step, low = self.last_epoch, self.lowest_factor
        if step < self.warm_up_steps:
            factor = (step + 1) / self.warm_up_steps
        else:
            part = (step - self.warm_up_steps) / (self.total_steps - self.warm_up_steps)
            factor = low + (1 - low) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
        return [rate * factor for rate in self.base_lrs]
