"""Starting weights from which a tiny Llama learns to copy in minutes.

From random weights a small transformer spends most of a short training discovering an induction
circuit: one head that looks at the token before, one that finds where the current token stood
earlier and copies what followed. Here the circuit is laid into the first two layers and the
spelling variants of a word (`` word``, ``Word``) begin as neighbours. Everything is trained on
from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONSTANT = 0
"""Residual dimension that holds the same value for every token: what a head can read to attend
by position alone."""

_TOKEN_STD = 0.04
_CONSTANT_VALUE = 0.16


def lay_copying_circuit(model: Any, tokenizer: Any, seed: int) -> None:
    """Write the circuit into a freshly built Llama, in place.

    The residual stream of width ``D`` is used as: dimension 0 a constant, the first two thirds
    the token's identity, the last third what the token before was.

    Args:
        model: ``LlamaForCausalLM`` with as many key-value heads as heads.
        tokenizer: Its tokenizer, for the spelling variants.
        seed: Seed of the random projections.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    config = model.config
    width, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    identity = slice(1, width - head)
    with torch.no_grad():
        _embed(model, tokenizer, identity, generator)
        layers = model.model.layers
        theta = config.rope_parameters["rope_theta"]
        circuit = _Circuit(
            identity=identity,
            scratch=width - head,
            head=head,
            frequencies=theta ** (-torch.arange(0, head, 2) / head),
            code=_projection(head, width - head - 1, generator),
            generator=generator,
        )
        _lay_previous_token_head(layers[0].self_attn, circuit)
        for index in range(min(2, config.num_attention_heads)):
            _lay_matching_head(layers[1].self_attn, index, circuit)


@dataclass(frozen=True)
class _Circuit:
    """What both kinds of heads share.

    Attributes:
        identity: Dimensions of the residual stream with the token's identity.
        scratch: First dimension of the part that tells the token before.
        head: Width of a head.
        frequencies: Of the rotary position, ``[head / 2]``.
        code: Projection of an identity to a head's width, ``[head, identity]``.
        generator: Source of the random projections.
    """

    identity: slice
    scratch: int
    head: int
    frequencies: Any
    code: Any
    generator: Any


def _projection(rows: int, columns: int, generator: Any) -> Any:
    """Orthonormal rows ``[rows, columns]``."""
    import torch

    square, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
    return square[:rows]


def _embed(model: Any, tokenizer: Any, identity: slice, generator: Any) -> None:
    """Token vectors; spelling variants of one word share theirs but for a common offset."""
    import torch

    weight = model.get_input_embeddings().weight
    size = identity.stop - identity.start
    offsets = torch.randn(2, size, generator=generator) * _TOKEN_STD * 0.5
    vectors: dict[str, Any] = {}
    weight.zero_()
    weight[:, CONSTANT] = _CONSTANT_VALUE
    # In the order of ids: a vocabulary's dict has no fixed order, and the draws follow it.
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = token.removeprefix("Ġ")
        plain = word.lower() if word.isalpha() else word
        if plain not in vectors:
            vectors[plain] = torch.randn(size, generator=generator) * _TOKEN_STD
        vector = vectors[plain] + 0.3 * _TOKEN_STD * torch.randn(size, generator=generator)
        spaced, capital = token != word and bool(word), plain != word
        weight[index, identity] = vector + spaced * offsets[0] + capital * offsets[1]


def _lay_previous_token_head(attention: Any, circuit: _Circuit) -> None:
    """Make head 0 attend one position back and store that token's code in the scratch space."""
    import torch

    head, frequencies = circuit.head, circuit.frequencies
    half = head // 2
    unit = _CONSTANT_VALUE / _TOKEN_STD
    # The slowest rotations differ too little between neighbours to tell one step from none.
    fast = torch.arange(half) < half // 3
    # RMSNorm divides by about _TOKEN_STD and attention by sqrt(head): each fast rotation then adds
    # about 11 to the logit of the right position.
    strength = (11.0 * head**0.5) ** 0.5 / unit * fast
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:head] = 0
    attention.q_proj.weight[:half, CONSTANT] = strength
    # Keys are turned on by one step, so the product is largest one position back.
    attention.k_proj.weight[:half, CONSTANT] = strength * torch.cos(frequencies)
    attention.k_proj.weight[half:head, CONSTANT] = strength * torch.sin(frequencies)
    attention.v_proj.weight[:head, circuit.identity] = circuit.code
    attention.o_proj.weight[:, :head] = 0
    attention.o_proj.weight[circuit.scratch :, :head] = torch.eye(head) * _TOKEN_STD


def _lay_matching_head(attention: Any, index: int, circuit: _Circuit) -> None:
    """Make a head find where the current token occurred before and copy what followed it."""
    import torch

    head, code, identity = circuit.head, circuit.code, circuit.identity
    frequencies, generator = circuit.frequencies, circuit.generator
    rows = slice(index * head, (index + 1) * head)
    # Rotary position must hardly turn the coordinates that compare content.
    slow = (frequencies * 100 < 0.7).repeat(2)
    # Each matching head gets other coordinates of the code on its slow rotations.
    order = torch.randperm(head, generator=generator)
    # Logits of other tokens then spread by about 3; a match has about 3 sqrt(n) for n slow ones.
    gain = (3.0 * head**0.5 / float(slow.sum()) ** 0.5) ** 0.5 * slow[:, None]
    query = torch.zeros(head, attention.q_proj.weight.shape[1])
    query[:, identity] = code[order]
    key = torch.zeros_like(query)
    key[torch.arange(head), circuit.scratch + order] = 1
    attention.q_proj.weight[rows] = query * gain
    attention.k_proj.weight[rows] = key * gain
    reading = _projection(head, code.shape[1], generator)
    attention.v_proj.weight[rows] = 0
    attention.v_proj.weight[rows, identity] = reading
    attention.o_proj.weight[:, rows] = 0
    attention.o_proj.weight[identity, rows] = reading.T * _TOKEN_STD * 2
