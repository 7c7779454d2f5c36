"""Low-rank adapters: what is trained, and that merging them changes no estimate."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.architectures.bs_roformer import BSRoFormer
from lightning_modules.architectures.unet import UNet
from lightning_modules.layers.cross_transformer import MultiHeadAttention
from lightning_modules.layers.lora import LoRA, add_adapters, merge_adapters, split_adapters
from tests.helpers.separators import TWO


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def disturb(model: nn.Module) -> None:
    """Change what is trained, as a step of training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_checkpoints_of_a_band_split_transformer_hold_merged_weights() -> None:
    model = BSRoFormer(TWO, **BSRoFormer.tiny, pretrained="x.ckpt", lora=LoRA(2, 4.0)).eval()
    plain = BSRoFormer(TWO, **BSRoFormer.tiny).eval()
    plain.load_state_dict(model.state_dict())
    mixture = torch.randn(1, 2, 1024)
    text = model.prepare_training()
    assert text.startswith("LoRA: ")
    assert model.prepare_training() == ""  # once
    assert all(name.endswith((".left", ".right")) for name in trained(model))
    with torch.no_grad():
        assert torch.equal(model(mixture), plain(mixture))  # the product is zero at first
        disturb(model)
        estimates = model(mixture)
        assert not torch.allclose(estimates, plain(mixture), atol=1e-3)
    adapted = dict(model.state_dict())
    checkpoint: dict[str, Any] = {"state_dict": adapted}
    model.on_save_checkpoint(checkpoint)
    plain.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        torch.testing.assert_close(plain(mixture), estimates, rtol=1e-4, atol=1e-5)
    model.on_load_checkpoint(checkpoint)
    restored = checkpoint["state_dict"]
    assert restored.keys() == adapted.keys()
    assert all(torch.equal(restored[name], adapted[name]) for name in adapted)


def test_attention_of_one_weight_and_layers_that_are_trained_completely() -> None:
    model = nn.ModuleDict({"attention": MultiHeadAttention(4, 2, 0.0), "last": nn.Linear(4, 4)})
    before = copy.deepcopy(model.state_dict())
    add_adapters(model, LoRA(1, pattern="in_proj", trained="last"))
    start = "attention.parametrizations.in_proj_weight.0"
    assert trained(model) == {f"{start}.left", f"{start}.right", "last.weight", "last.bias"}
    disturb(model)
    merged = merge_adapters(model.state_dict(), LoRA(1))
    changed = {name for name in before if not torch.equal(merged[name], before[name])}
    assert changed == {"attention.in_proj_weight", "last.weight", "last.bias"}
    state: dict[str, Tensor] = model.state_dict()
    adapters = {name: value for name, value in state.items() if name not in merged}
    assert split_adapters(merged, adapters).keys() == state.keys()


def test_bad_settings_raise() -> None:
    with pytest.raises(ValueError, match="rank is 0"):
        LoRA(0)
    with pytest.raises(ValueError, match="give them as pretrained"):
        UNet(TWO, **UNet.tiny, lora=LoRA())
    with pytest.raises(ValueError, match="no linear or attention layer of the UNet"):
        UNet(TWO, **UNet.tiny, lora=LoRA(), pretrained="x.ckpt").prepare_training()
