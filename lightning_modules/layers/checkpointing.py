"""Activation checkpointing: less memory, longer steps, the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_Output = TypeVar("_Output")


def checkpointed(
    module: nn.Module,
    function: Callable[..., _Output],
    *inputs: Tensor | None,
    random: bool = False,
) -> _Output:
    """Call a function of a module and recompute its activations in the backward pass.

    Args:
        module: Its buffers, such as running statistics, are updated by the first pass only.
        function: Function of the inputs and the module's parameters.
        *inputs: Arguments of the function.
        random: The function draws random numbers, as dropout does; both passes draw the same.

    Returns:
        The function's output.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    run: Callable[..., _Output] = partial(
        checkpoint, function, *inputs, use_reentrant=False, preserve_rng_state=random
    )
    # A compiled recomputation updates no buffers, and does not support contexts.
    if torch.compiler.is_compiling():
        return run()
    return run(context_fn=lambda: (nullcontext(), _buffers_kept(module)))


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Replace the buffers by copies, which in-place updates change instead."""
    buffers = [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    for part, name, buffer in buffers:
        setattr(part, name, buffer.clone())
    try:
        yield
    finally:
        for part, name, buffer in buffers:
            setattr(part, name, buffer)
