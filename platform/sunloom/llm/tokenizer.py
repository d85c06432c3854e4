"""A small byte-level BPE tokenizer with a chat template whose marks are single tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sunloom.llm.conversations import Conversation

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
_MARKS = (PAD, END, SYSTEM, "<|tools|>", USER, ASSISTANT, "<|tool|>")
# Words without the space before them: a name is the same tokens after a blank, a quote or an
# underscore, so copying is copying. Every digit stands alone.
_PIECES = r" ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+"

# Each tool is one line whatever JSON schema the client sends, so prompts stay short: a parameter is
# shown by its type, by its values where these are listed, and by its alternatives. A mark that
# stands in someone's text is broken up: it must not be read as a turn.
CHAT_TEMPLATE = """\
{%- macro plain(text) -%}
{{- text | trim | replace('<|', '< |') | replace('<tool_call>', '< tool_call>') -}}
{%- endmacro -%}
{%- for message in messages if message['role'] == 'system' -%}
{{- '<|system|>' -}}{{- plain(message['content']) -}}{{- '<|end|>' -}}
{%- endfor -%}
{%- macro type_of(schema, definitions, depth) -%}
{%- set options = schema.get('anyOf') or schema.get('oneOf') or schema.get('allOf') or [] -%}
{%- set name = schema.get('type') -%}
{%- if depth > 5 -%}any
{%- elif schema.get('$ref') is string -%}
{%- set target = definitions.get(schema['$ref'].split('/') | last) -%}
{{- type_of(target, definitions, depth + 1) if target is mapping else 'any' -}}
{%- elif schema.get('enum') is iterable -%}
{%- for value in schema['enum'] -%}{{- plain(value | tojson) -}}{{- '' if loop.last else '|' -}}
{%- endfor -%}
{%- elif 'const' in schema -%}{{- plain(schema['const'] | tojson) -}}
{%- elif name is string -%}{{- plain(name) -}}
{%- elif name is iterable -%}{{- plain(name | join('|')) -}}
{%- elif options is iterable and options -%}
{%- for option in options -%}
{{- type_of(option, definitions, depth + 1) if option is mapping else 'any' -}}
{{- '' if loop.last else '|' -}}
{%- endfor -%}
{%- elif 'properties' in schema -%}object
{%- elif 'items' in schema -%}array
{%- else -%}any
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|tools|>' -}}
{%- for tool in tools -%}
{%- set f = tool['function'] if 'function' in tool else tool -%}
{{- plain(f['name']) -}}{{- '(' -}}
{%- set parameters = f.get('parameters') or {} -%}
{%- set definitions = parameters.get('$defs') or parameters.get('definitions') -%}
{%- set definitions = definitions if definitions is mapping else {} -%}
{%- for key, value in (parameters.get('properties') or {}).items() -%}
{{- plain(key) -}}{{- ': ' -}}
{{- type_of(value, definitions, 0) if value is mapping else 'any' -}}
{{- '' if loop.last else ', ' -}}
{%- endfor -%}
{{- ')' -}}{{- '' if loop.last else '\\n' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages if message['role'] != 'system' -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- if message['content'] -%}{{- plain(message['content']) -}}{%- endif -%}
{%- for call in message.get('tool_calls') or [] -%}
{%- set f = call['function'] -%}
{{- '<tool_call>{"name": "' -}}{{- f['name'] -}}{{- '", "arguments": ' -}}
{{- f['arguments'] if f['arguments'] is string else f['arguments'] | tojson -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- elif message['role'] == 'tool' -%}
{{- '<|tool|>' -}}{{- plain(message['content']) -}}{{- '<|end|>' -}}
{%- else -%}
{{- '<|user|>' -}}{{- plain(message['content']) -}}{{- '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def chatml_template(system: str) -> str:
    """The chat template with ChatML's marks, for models that were tuned on them.

    Args:
        system: System text of a conversation that has none.
    """
    template = CHAT_TEMPLATE.replace(
        "{%- endfor -%}",
        f"{{%- else -%}}{{{{- '<|system|>{system}<|end|>' -}}}}{{%- endfor -%}}",
        # The first loop is the one over system messages.
        1,
    )
    for role in ("system", "tools", "user", "assistant", "tool"):
        template = template.replace(f"<|{role}|>", f"<|im_start|>{role}\\n")
    return template.replace("<|end|>", "<|im_end|>\\n")


def build_tokenizer(texts: Iterable[str], vocabulary: int, max_length: int) -> Any:
    """Train a tokenizer.

    Args:
        texts: Text to learn merges from, without marks.
        vocabulary: Number of tokens, marks included.
        max_length: Longest prompt that models with this tokenizer take.

    Returns:
        A ``PreTrainedTokenizerFast`` with the chat template set.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            # use_regex=False: GPT-2's own pattern would split the pieces again.
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_MARKS),
        # All 256 bytes: a text outside the training data still has tokens, and comes back whole.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    # Not special: a decoder that skips special tokens must keep them for the server's parser.
    core.add_tokens(
        [AddedToken(t, special=False, normalized=False) for t in (CALL_OPEN, CALL_CLOSE)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(_MARKS[2:]),
        model_max_length=max_length,
        # The clean-up removes blanks before punctuation, and a copied value would change.
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def conversation_texts(conversations: Iterable[Conversation]) -> Iterator[str]:
    """The texts of conversations, for training a tokenizer."""
    for conversation in conversations:
        for message in conversation.messages:
            if message.get("content"):
                yield message["content"]
            for call in message.get("tool_calls") or ():
                # As the chat template renders calls and tools: merges are learned on the texts of
                # prompts.
                yield f'{{"name": "{call["function"]["name"]}", "arguments": '
                yield call["function"]["arguments"]
        for tool in conversation.tools:
            function = tool["function"]
            keys = ((function.get("parameters") or {}).get("properties") or {}).items()
            listed = ", ".join(f"{key}: {value.get('type', 'any')}" for key, value in keys)
            yield f"{function['name']}({listed})"
