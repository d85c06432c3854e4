"""A linear layer with LoRA as one differentiable function.

PEFT adds the adapter's part to the base's in tensors of its own: each is another pass over memory,
forward and backward. Here the products add into one another. On two cores, a Llama of 25 million
parameters in float32: 12 % more tokens a second (`benchmarks/llm/train.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx


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
        fused: torch.Tensor = _LoraProduct.apply(
            x.to(dtype), base.weight, base.bias, a.weight, b.weight, layer.scaling[name], dtype
        )
        return fused


class _LoraProduct(torch.autograd.Function):
    """``x W' + bias + scale (x A') B'``; gradients of ``x``, ``A`` and ``B``."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """The layer's output.

        Args:
            ctx: What the backward pass needs.
            x: ``[..., I]``, in ``dtype``.
            weight: ``[O, I]``, frozen.
            bias: ``[O]``, frozen.
            a: ``[R, I]``.
            b: ``[O, R]``.
            scale: Alpha over rank.
            dtype: Number format of the products.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            low = rows @ a.to(dtype).t()
            out = nn.functional.linear(
                rows, weight.to(dtype), None if bias is None else bias.to(dtype)
            )
            out.addmm_(low, b.to(dtype).t(), alpha=scale)
        # The frozen weight in its own format: a copy in another would be kept for the whole step.
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients.

        Args:
            ctx: What the forward pass left.
            grad: Of the output, ``[..., O]``.
        """
        rows, weight, a, b, low = ctx.saved_tensors
        scale, dtype = ctx.scale, ctx.dtype
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.reshape(-1, grad.shape[-1]).to(dtype)
            grad_low = grad @ b.to(dtype)
            grad_b = (grad.t() @ low).mul_(scale).to(b.dtype)
            grad_a = (grad_low.t() @ rows).mul_(scale).to(a.dtype)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight.to(dtype)
                grad_x.addmm_(grad_low, a.to(dtype), alpha=scale)
                grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None, None
