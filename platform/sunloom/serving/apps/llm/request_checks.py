"""Checks of a request before the engine sees it: types, roles, and bounds of its work.

Each check takes time in proportion to the request. What is left to the engine are the values of
the other fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sunloom.config.request_limits import LlmLimits
from sunloom.errors import RequestError, nearest
from sunloom.llm.conversations import ROLES

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

_BOOLEANS = ("stream", "echo", "use_beam_search")
_INTEGERS = ("n", "max_tokens", "max_completion_tokens", "min_tokens")
# Fields of vLLM's own: they run templates, load tensors, move caches or change whose turn it is.
_OPERATORS_OWN = (
    "chat_template", "ec_transfer_params", "kv_transfer_params", "media_io_kwargs",
    "mm_processor_kwargs", "priority", "prompt_embeds", "use_beam_search", "vllm_xargs",
)  # fmt: skip
# Lists whose every element costs at every token.
_LISTS = (
    "allowed_token_ids", "bad_words", "logit_bias", "logprob_token_ids", "stop", "stop_token_ids",
)  # fmt: skip
_LONGEST_LIST = 1024
_MEDIA = frozenset({"image_url", "input_audio", "audio_url", "video_url"})
# No tokenizer has tokens so long that a text of more bytes for each token could fit.
_LONGEST_TOKEN_BYTES = 64
# The marks of turns and the tools' heading, which the chat template adds to a conversation.
_TEMPLATE_TOKENS = 64
_COMPLETION_MAX_TOKENS = 16
_REPETITION = re.compile(r"\{(\d*)(?:,(\d*))?\}")


@dataclass(frozen=True)
class Work:
    """What a request asks of the engine, at most.

    Attributes:
        prompts: Number of prompts or texts.
        sequences: Answers that are generated at once.
        prompt_tokens: Tokens of all prompts.
        max_tokens: Tokens of one answer; None where the request leaves it to the engine.
        longest_answer: Tokens of one answer that the model allows.
    """

    prompts: int
    sequences: int
    prompt_tokens: int
    max_tokens: int | None
    longest_answer: int

    @property
    def answer_tokens(self) -> int:
        """Tokens of one answer, at most."""
        limit = self.longest_answer if self.max_tokens is None else self.max_tokens
        return max(0, min(limit, self.longest_answer))

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers, at most."""
        return self.prompt_tokens + self.sequences * self.answer_tokens


def check_request(
    path: str, request: Mapping[str, Any], limits: LlmLimits, max_model_len: int
) -> Work:
    """Check a request, and say what work it is.

    Args:
        path: Its route.
        request: Its body.
        limits: The bounds.
        max_model_len: Longest prompt and answer together, tokens.

    Raises:
        RequestError: A field has the wrong type, or the request is beyond the bounds.
    """
    _check_types(request)
    _check_offered(request)
    _check_lists(request)
    _check_schemas(request, limits)
    if path == CHAT:
        _check_messages(request)
        _check_tools(request, limits)
        prompts, prompt_tokens = 1, _chat_tokens(request, max_model_len)
    else:
        field = "input" if path == EMBEDDINGS else "prompt"
        prompts, prompt_tokens = _prompt_tokens(request.get(field), field, max_model_len)
    if path == EMBEDDINGS:
        if prompts > limits.max_inputs:
            raise RequestError(
                f"The request has {prompts} texts; at most {limits.max_inputs} are allowed.",
                "Send them in several requests.",
                "input",
            )
        return Work(prompts, min(prompts, limits.max_sequences), prompt_tokens, 0, 0)
    return _check_work(
        path,
        request,
        limits,
        prompts=prompts,
        prompt_tokens=prompt_tokens,
        max_model_len=max_model_len,
    )


def _check_work(
    path: str,
    request: Mapping[str, Any],
    limits: LlmLimits,
    *,
    prompts: int,
    prompt_tokens: int,
    max_model_len: int,
) -> Work:
    choices = 1 if request.get("n") is None else request["n"]
    sequences = max(1, choices) * prompts
    if sequences > limits.max_sequences:
        raise RequestError(
            f"The request asks for {sequences} answers ({choices} choices of {prompts} prompts); "
            f"at most {limits.max_sequences} are allowed.",
            "Send it in several requests.",
            "n" if choices > 1 else "prompt",
        )
    max_tokens = _max_tokens(path, request)
    work = Work(prompts, sequences, prompt_tokens, max_tokens, max_model_len)
    total = sequences * work.answer_tokens
    if sequences > 1 and total > limits.max_generated_tokens:
        most = limits.max_generated_tokens // sequences
        raise RequestError(
            f"The request may generate {total} tokens ({sequences} answers of "
            f"{work.answer_tokens}); at most {limits.max_generated_tokens} are allowed.",
            f"Set max_tokens to at most {most}, or ask for fewer answers.",
            "max_tokens",
        )
    return work


def _max_tokens(path: str, request: Mapping[str, Any]) -> int | None:
    """The limit of one answer in the order in which vLLM reads it."""
    values = [request.get("max_tokens")]
    if path == CHAT:
        values.insert(0, request.get("max_completion_tokens"))
    elif "max_tokens" not in request:
        return _COMPLETION_MAX_TOKENS
    return next((value for value in values if value is not None), None)


def limit_answer(path: str, request: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """The request with answers of at most ``max_tokens``."""
    names = ("max_completion_tokens", "max_tokens") if path == CHAT else ("max_tokens",)
    given = {name for name in names if request.get(name) is not None} or {"max_tokens"}
    return {**request, **dict.fromkeys(given, max_tokens)}


def _check_types(request: Mapping[str, Any]) -> None:
    # vLLM takes "false" and 0 for False and "600" for 600: what is counted here must be what it
    # reads.
    for name in _BOOLEANS:
        if not isinstance(request.get(name), bool | None):
            raise RequestError(f"{name} must be true or false.", param=name)
    for name in _INTEGERS:
        value = request.get(name)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise RequestError(f"{name} must be an integer.", param=name)
    for name in ("cache_salt", "request_id"):
        if not isinstance(request.get(name), str | None):
            raise RequestError(f"{name} must be a string.", param=name)
    for name in ("logprobs", "top_logprobs"):
        if not isinstance(request.get(name), bool | int | None):
            raise RequestError(f"{name} must be an integer, true or false.", param=name)


def _check_offered(request: Mapping[str, Any]) -> None:
    for name in _OPERATORS_OWN:
        # Clients may send a default.
        if request.get(name) not in (None, False, 0, {}, []):
            raise RequestError(f"{name} is not offered here.", "Leave it out.", name)
    # They would crash the engine.
    hint = "Evaluate on an engine of its own instead: sunloom llm evaluate."
    if request.get("prompt_logprobs") is not None:
        raise RequestError("prompt_logprobs is not offered here.", hint, "prompt_logprobs")
    # 0 asks for them too.
    logprobs = [request.get(name) for name in ("logprobs", "top_logprobs")]
    if request.get("echo") and any(value is not None and value is not False for value in logprobs):
        raise RequestError("echo together with logprobs is not offered here.", hint, "echo")


def _check_lists(request: Mapping[str, Any]) -> None:
    for name in _LISTS:
        value = request.get(name)
        if isinstance(value, list | dict) and len(value) > _LONGEST_LIST:
            raise RequestError(
                f"{name} has {len(value)} elements; at most {_LONGEST_LIST} are allowed.",
                param=name,
            )


def _check_messages(request: Mapping[str, Any]) -> None:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(
            "messages must be a list of at least one message.",
            'Send {"role": "user", "content": "…"}.',
            "messages",
        )
    for index, message in enumerate(messages):
        at = f"messages.{index}"
        if not isinstance(message, dict):
            raise RequestError(f"{at} must be an object with role and content.", param=at)
        role = message.get("role")
        if role not in ROLES:
            close = nearest(role, ROLES) if isinstance(role, str) else None
            raise RequestError(
                f"{at} has the role {_shorten(role)}.",
                f"{f'Did you mean {close!r}? ' if close else ''}Valid: {', '.join(ROLES)}.",
                f"{at}.role",
            )
        content = message.get("content")
        # An answer that only calls tools has no text.
        if not isinstance(content, str | list) and not (content is None and role == "assistant"):
            raise RequestError(
                f"{at}.content must be a string or a list of parts.", param=f"{at}.content"
            )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _check_tools(request: Mapping[str, Any], limits: LlmLimits) -> None:
    tools = request.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise RequestError("tools must be a list.", param="tools")
    if len(tools) > limits.max_tools:
        raise RequestError(
            f"The request has {len(tools)} tools; at most {limits.max_tools} are allowed.",
            param="tools",
        )
    size = objects = 0
    for index, tool in enumerate(tools):
        at = f"tools.{index}.function"
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"{at} must be an object with a name.", param=at)
        parameters = function.get("parameters")
        if parameters is None:
            continue
        at = f"{at}.parameters"
        properties = parameters.get("properties", {}) if isinstance(parameters, dict) else None
        if not isinstance(properties, dict):
            raise RequestError(f"{at} must be a JSON schema of an object.", param=at)
        for name, schema in properties.items():
            # JSON Schema allows true for "anything", which chat templates cannot show.
            if not isinstance(schema, dict):
                raise RequestError(
                    f"{at}.properties.{name} must be an object.",
                    'Send {} for "anything", or a type such as {"type": "string"}.',
                    f"{at}.properties.{name}",
                )
        schema_size = _check_schema(at, parameters, limits)
        size += schema_size.bytes
        objects += schema_size.objects
    if objects > 4 * limits.max_schema_objects:
        raise RequestError(
            f"The schemas of all tools have {objects} objects together; at most "
            f"{4 * limits.max_schema_objects} are allowed.",
            param="tools",
        )
    if size > 4 * limits.max_schema_bytes:
        raise RequestError(
            f"The schemas of all tools have {size} bytes together; at most "
            f"{4 * limits.max_schema_bytes} are allowed.",
            param="tools",
        )


def _check_schemas(request: Mapping[str, Any], limits: LlmLimits) -> None:
    for name in ("response_format", "structured_outputs"):
        value = request.get(name)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise RequestError(f"{name} must be an object.", param=name)
        _check_schema(name, value, limits)
        # The engine parses these itself; there a schema may also be a string of JSON.
        for key in ("json", "structural_tag"):
            if isinstance(text := value.get(key), str):
                try:
                    schema = orjson.loads(text)
                except ValueError as error:
                    raise RequestError(
                        f"{name}.{key} is not JSON: {error}", param=f"{name}.{key}"
                    ) from error
                _check_schema(f"{name}.{key}", schema, limits)


@dataclass(frozen=True)
class _SchemaSize:
    bytes: int
    objects: int


def _check_schema(at: str, schema: Any, limits: LlmLimits) -> _SchemaSize:
    """Check one schema with all that is in it."""
    objects = 0
    for depth, value, text in _nodes(schema):
        objects += isinstance(value, dict)
        if objects > limits.max_schema_objects:
            raise RequestError(
                f"{at} has more than {limits.max_schema_objects} objects.",
                "Leave out properties that the answer does not need.",
                at,
            )
        if depth > limits.max_schema_depth:
            raise RequestError(
                f"{at} is nested more than {limits.max_schema_depth} levels deep.",
                "Name its parts in $defs and refer to them.",
                at,
            )
        if text is not None:
            _check_pattern(at, text, limits.max_repetitions)
    size = len(orjson.dumps(schema))
    if size > limits.max_schema_bytes:
        raise RequestError(
            f"{at} has {size} bytes; at most {limits.max_schema_bytes} are allowed.",
            "Leave out descriptions and what the answer does not need.",
            at,
        )
    return _SchemaSize(size, objects)


# Where a schema holds a regular expression or a grammar; the keys of patternProperties are some.
_PATTERNS = frozenset({"pattern", "regex", "grammar"})


def _nodes(schema: Any) -> Iterator[tuple[int, Any, str | None]]:
    """Depth of every value, with its text where it is a pattern; no recursion."""
    open_nodes: list[tuple[int, Any]] = [(0, schema)]
    while open_nodes:
        depth, value = open_nodes.pop()
        yield depth, value, None
        if isinstance(value, dict):
            for key, item in value.items():
                open_nodes.append((depth + 1, item))
                if key in _PATTERNS and isinstance(item, str):
                    yield depth, None, item
                elif key == "patternProperties" and isinstance(item, dict):
                    yield from ((depth, None, pattern) for pattern in item)
        elif isinstance(value, list):
            open_nodes.extend((depth + 1, item) for item in value)


def _check_pattern(at: str, pattern: str, most: int) -> None:
    # Nested repetitions multiply, and the compiler writes each of them out.
    product = 1
    for match in _REPETITION.finditer(pattern):
        # Compared by their number of digits first: int() of many digits takes long.
        digits = max(match[1], match[2] or "", key=lambda text: (len(text), text))
        product *= max(1, int(digits[:7] or 1) if len(digits) <= 7 else most + 1)
        if product > most:
            raise RequestError(
                f"A pattern of {at} has more than {most} repetitions.",
                "Use * or + instead, or smaller numbers in {m,n}.",
                at,
            )


def _prompt_tokens(value: Any, field: str, max_model_len: int) -> tuple[int, int]:
    """Number of prompts, and of their tokens at most."""
    # A list of integers is one prompt, as its tokens.
    is_list = isinstance(value, list) and not (value and isinstance(value[0], int))
    prompts: Sequence[Any] = value if is_list else [value]
    if not prompts or not all(isinstance(prompt, str | list | dict) for prompt in prompts):
        raise RequestError(
            f"{field} must be a string, a list of strings, or one or several lists of tokens.",
            param=field,
        )
    tokens = 0
    for prompt in prompts:
        size = len(prompt) if isinstance(prompt, list) else _text_bytes(prompt)
        tokens += _bounded_tokens(size, field, max_model_len, extra=2)
    return len(prompts), tokens


def _chat_tokens(request: Mapping[str, Any], max_model_len: int) -> int:
    size = 0
    for message in request["messages"]:
        size += _text_bytes(message)
        content = message.get("content")
        parts = content if isinstance(content, list) else ()
        if any(isinstance(part, dict) and not _MEDIA.isdisjoint(part) for part in parts):
            # How many tokens a picture has, only its model knows.
            return max_model_len
    size += _text_bytes(request.get("tools"))
    return _bounded_tokens(size, "messages", max_model_len, extra=_TEMPLATE_TOKENS)


def _bounded_tokens(size: int, field: str, max_model_len: int, extra: int) -> int:
    # Refused here, because one thread tokenizes the texts of all requests.
    if size > max_model_len * _LONGEST_TOKEN_BYTES:
        raise RequestError(
            f"{field} has {size} bytes; prompt and answer may have {max_model_len} tokens.",
            "Send a shorter prompt.",
            field,
        )
    # A token has at least one byte.
    return min(size + extra, max_model_len)


def _text_bytes(value: Any) -> int:
    """Bytes of all texts in a value, UTF-8; no recursion."""
    total, open_values = 0, [value]
    while open_values:
        value = open_values.pop()
        if isinstance(value, str):
            total += len(value.encode(errors="replace"))
        elif isinstance(value, dict):
            open_values.extend(item for key, item in value.items() if key not in _MEDIA)
            total += sum(len(key) for key in value)
        elif isinstance(value, list):
            open_values.extend(value)
        elif value is not None:
            total += 8
    return total
