"""A random Llama of 136,000 parameters with a tokenizer, and adapters on it that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunloom.llm.models import allow_untied_weights

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}assistant: "
)
SPECIAL = ["<pad>", "<s>", "</s>", "<tool_call>", "</tool_call>"]


def build_base(folder: Path, *, tied: bool = False) -> Path:
    """Write model and tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        # vLLM's attention on CPU knows heads of 32 and more.
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def build_adapter(base: Path, folder: Path, seed: int, rank: int = 8, **options: Any) -> Path:
    """Write a LoRA adapter with random weights, so that it answers unlike the base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=64,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **options,
    )
    with allow_untied_weights():
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name or "modules_to_save" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    model.save_pretrained(folder)
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["hello world voucher customer"] * 10, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = TEMPLATE
    return made
