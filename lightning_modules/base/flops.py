"""Count of floating-point operations of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.base.separator import SourceSeparator

# Gates, each with one matrix product of the input and one of the state per time step.
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def forward_flops(model: SourceSeparator) -> float:
    """Count the floating-point operations of a forward pass.

    Convolutions and matrix products are counted by torch; recurrent layers, which run as one
    library kernel that torch does not count, are added.

    Returns:
        Operations per sample of the mixture; a multiplication and an addition count as two.
    """
    samples = round(model.segment_seconds * model.sample_rate)
    silence = torch.zeros(1, model.audio_channels, samples, device=model.device)
    modes = [(module, module.training) for module in model.modules()]
    recurrent = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        nonlocal recurrent
        assert isinstance(module, nn.RNNBase)
        recurrent += recurrent_flops(module, inputs[0])

    layers = {name: each for name, each in model.named_modules() if isinstance(each, nn.RNNBase)}
    hooks = [layer.register_forward_hook(count) for layer in layers.values()]
    counter = FlopCounterMode(display=False)
    model.eval()  # keeps the statistics of batch norm
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), counter:
            model(silence)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    # Without a library kernel, recurrent layers consist of products that torch does count.
    counts = counter.get_flop_counts()
    counted = sum(sum(counts.get(f"{type(model).__name__}.{name}", {}).values()) for name in layers)
    return float(counter.get_total_flops() - counted + recurrent) / samples


def recurrent_flops(layer: nn.RNNBase, sequence: Tensor) -> int:
    """Count the operations of a recurrent layer's products for an input (N, B, features)."""
    directions = 2 if layer.bidirectional else 1
    state = layer.proj_size or layer.hidden_size
    products = 0
    for depth in range(layer.num_layers):
        size = layer.input_size if depth == 0 else directions * state
        products += _GATES[layer.mode] * layer.hidden_size * (size + state)
        products += layer.proj_size * layer.hidden_size
    steps = sequence[..., 0].numel()
    return 2 * steps * directions * products
