"""Bounds of what one request, one key and one tenant may ask of the gateway."""

from __future__ import annotations

from pydantic import Field

from sunloom.config.loading.model import Model


class RequestLimits(Model):
    """What a request may be, the same for every app, and how many of a tenant's may be refused.

    Bodies are checked before anything is built of them.
    """

    body_bytes: int = Field(default=8 << 20, ge=1024)
    """Bytes of a body; a longer one is refused with 413 while it arrives."""
    levels: int = Field(default=100, ge=1, le=500)
    """How deep lists and objects may be nested."""
    rows: int = Field(default=10_000, ge=1)
    """Items of one list, such as rows or entities."""
    keys: int = Field(default=1_000, ge=1)
    """Keys of one object, such as columns of a row."""
    containers: int = Field(default=200_000, ge=1)
    """Lists and objects of a body in all."""
    pixels: int = Field(default=16_000_000, ge=1)
    """Pixels of the images of one ``POST /features/transform`` in all."""
    arrival_s: float = Field(default=10.0, gt=0)
    """How long a head and a body may each take to arrive, seconds; 408 then."""
    refusals: int = Field(default=40, ge=1)
    """Refused requests of a tenant (400, 403, 413, 422 and the like) that cost it nothing;
    with more, a process lets its requests in one by one, the slower the more. Keys with the scope
    ``admin`` are exempt."""
    refusals_forgiven_per_s: float = Field(default=1.0, gt=0)
    """Refusals that a process forgives a tenant every second."""


class LlmLimits(Model):
    """Bounds of requests to the language model, so that no key holds up the others."""

    # Beside eight another tenant's token takes two to three times as long as alone, on two cores.
    max_sequences: int = Field(default=8, ge=1)
    """Answers of one tenant that one engine generates at once, choices times prompts. A request for
    more is refused; one that finds them taken waits."""
    max_waiting: int = Field(default=256, ge=0)
    """Requests of one key that may wait for its other requests; further ones are refused."""
    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """Bytes of a body, where ``serving.limits.body_bytes`` allows more; pictures need it larger."""
    max_kept_bytes: int = Field(default=64 << 20, ge=1024)
    """Bodies of one tenant's requests that wait or run, together; further ones are refused."""
    max_generated_tokens: int = Field(default=16_384, ge=1)
    """Largest product of choices, prompts and ``max_tokens`` of one request. One answer as long as
    the model allows is never refused."""
    max_inputs: int = Field(default=256, ge=1)
    """Largest number of texts in one request for embeddings."""
    max_tools: int = Field(default=128, ge=1)
    """Largest number of tools of one request."""
    max_schema_bytes: int = Field(default=16_384, ge=1)
    """Longest JSON schema, regular expression or grammar for an answer; all tools together may
    have four times as much."""
    # The engine's compiler takes time with the third power of the depth: 8 ms at 33 levels, 0.6 s
    # at 129.
    max_schema_depth: int = Field(default=32, ge=1)
    """Deepest nesting of such a schema, levels of JSON: an object within an object takes two."""
    # And with the second power of the properties that an answer may leave out: 0.4 s for 256.
    max_schema_objects: int = Field(default=256, ge=1)
    """Objects of such a schema in all, each property being one; all tools together may have four
    times as many."""
    max_repetitions: int = Field(default=1000, ge=1)
    """Largest product of the repetitions ``{m,n}`` in a pattern of such a schema."""


class TrainingBounds(Model):
    """How far a request for a training may go."""

    max_steps: int = Field(default=5000, ge=1)
    """Most optimizer steps."""
    max_batch_size: int = Field(default=64, ge=1)
    """Most conversations a step."""
    max_workers: int = Field(default=4, ge=1)
    """Most Ray Train workers."""
    # What serving.llm.max_lora_rank can load by default.
    max_lora_rank: int = Field(default=32, ge=1)
    """Highest rank of an adapter; its scale may be four times as high."""
    max_length: int = Field(default=1024, ge=16)
    """Longest conversation, tokens."""
    max_running: int = Field(default=4, ge=1)
    """Most trainings of one tenant that wait or run at once."""
