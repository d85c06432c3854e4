"""A linear layer with LoRA as one differentiable function.

PEFT adds the adapter's part to the base's in tensors of its own: each is another pass over memory,
forward and backward. Here the products add into one another: 6 to 12 % more tokens a second of a
Llama of 25 million parameters in float32 (the hand-written loop of `benchmarks/llm/train.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


def fuse_lora(model: nn.Module) -> int:
    """Let the layers of an adapter that is trained compute in one function.

    Layers that do more are left as they are: dropout, DoRA, biases, a base in 4 bits, several
    adapters. Parameters and their names stay, so optimizers and exports see no difference.

    Args:
        model: With an adapter of PEFT's.

    Returns:
        Number of such layers.
    """
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        # An attribute of the instance: the class is PEFT's, and other models use it too.
        layer.forward = _FusedForward(layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    names = list(layer.lora_A)
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and layer.active_adapters == names
        and len(names) == 1
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and layer.lora_A[names[0]].bias is None
        and layer.lora_B[names[0]].bias is None
    )


class _FusedForward:
    """Takes the place of a layer's ``forward``."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._general = layer, layer.forward
        (self._name,) = layer.lora_A

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer, name = self._layer, self._name
        if args or kwargs or layer.disable_adapters or layer.merged:
            result: torch.Tensor = self._general(x, *args, **kwargs)
            return result
        base, a, b = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        frozen = _Frozen(base.weight, base.bias, layer.scaling[name], dtype)
        fused: torch.Tensor = _LoraProduct.apply(x.to(dtype), a.weight, b.weight, frozen)
        return fused


@dataclass(frozen=True)
class _Frozen:
    """What has no gradient.

    Attributes:
        weight: ``[O, I]``.
        bias: ``[O]``.
        scale: Alpha over rank.
        dtype: Number format of the products.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    dtype: torch.dtype


class _LoraProduct(torch.autograd.Function):
    """``x W' + bias + scale (x A') B'``; gradients of ``x``, ``A`` and ``B``."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, frozen: _Frozen
    ) -> torch.Tensor:
        """The layer's output.

        Args:
            ctx: What the backward pass needs.
            x: ``[..., I]``, in the products' format.
            a: ``[R, I]``.
            b: ``[O, R]``.
            frozen: The base's weight, and how it is computed.
        """
        dtype, bias = frozen.dtype, frozen.bias
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            low = rows @ a.to(dtype).t()
            out = nn.functional.linear(
                rows, frozen.weight.to(dtype), None if bias is None else bias.to(dtype)
            )
            out.addmm_(low, b.to(dtype).t(), alpha=frozen.scale)
        ctx.save_for_backward(rows, a, b, low)
        # With the weight in its own format: a copy in another would be kept for the whole step.
        ctx.frozen, ctx.shape = frozen, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients.

        Args:
            ctx: What the forward pass left.
            grad: Of the output, ``[..., O]``.
        """
        rows, a, b, low = ctx.saved_tensors
        scale, dtype = ctx.frozen.scale, ctx.frozen.dtype
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.reshape(-1, grad.shape[-1]).to(dtype)
            grad_low = grad @ b.to(dtype)
            grad_b = (grad.t() @ low).mul_(scale).to(b.dtype)
            grad_a = (grad_low.t() @ rows).mul_(scale).to(a.dtype)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = grad @ ctx.frozen.weight.to(dtype)
                grad_x.addmm_(grad_low, a.to(dtype), alpha=scale)
                grad_x = grad_x.view(ctx.shape)
        return grad_x, grad_a, grad_b, None
