"""Settings of the gateway and the apps behind it."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model


class LlmLimits(Model):
    """Bounds of requests to the language model, so that no key holds up the others."""

    max_sequences: int = Field(default=16, ge=1)
    """Answers of one key that are generated at once, choices times prompts. A request for more is
    refused; one that finds them taken waits."""
    max_waiting: int = Field(default=256, ge=0)
    """Requests of one key that may wait for its other requests; further ones are refused."""
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
    max_repetitions: int = Field(default=1000, ge=1)
    """Largest product of the repetitions ``{m,n}`` in a pattern of such a schema."""


class LlmServing(Model):
    """The language model app: one base model and every adapter trained on it."""

    enabled: bool = True
    """Whether the app is deployed; without a base model in the registry it is left out."""
    model: str = "tool-base"
    """Base model: a name or ``name@version`` of the registry, a folder, or a hub id."""
    adapters: tuple[str, ...] = ()
    """Adapters that must have answered a request before ``/readyz`` reports ready; all promoted
    ones if empty."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of weights and activations; ``auto`` measures this machine."""
    max_model_len: int = Field(default=1024, ge=16)
    """Longest prompt and answer together, tokens."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Largest number of requests in one engine step."""
    max_lora_rank: int = Field(default=32, ge=1)
    """Highest rank of an adapter that can be loaded."""
    max_loras: int = Field(default=4, ge=1)
    """Largest number of different adapters in one engine step."""
    # The parser for <tool_call> tags, which the chat template of llm/tokenizer.py writes.
    tool_parser: str = "hermes"
    """vLLM's parser for tool calls in the model's text."""
    # Whole GiB: vLLM parses VLLM_CPU_KVCACHE_SPACE as an integer.
    kv_cache_gib: int = Field(default=1, ge=1)
    """Key-value cache on CPU, GiB."""
    threads: int = Field(default=1, ge=1)
    """OpenMP threads of the engine on CPU."""
    accelerator: str | None = None
    """Ray's accelerator type, such as ``H100``; CPU if empty."""
    replicas: int = Field(default=1, ge=1)
    """Number of engines."""
    limits: LlmLimits = LlmLimits()
    """Bounds of requests."""
    engine: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, passed on as they are."""


class AppServing(Model):
    """An app without a model of its own."""

    enabled: bool = True
    """Whether the app is deployed."""
    replicas: int = Field(default=1, ge=1)
    """Number of processes."""


class FeaturesServing(AppServing):
    """The features app."""

    keep_answers: bool = True
    """Whether a sample of served features is stored with its as-of times, for ``features skew
    --served``."""
    ahead: Duration = timedelta(days=1)
    """How far ahead of the clock an event time of ``POST /features/ingest`` may be; a streamed
    set has its source's own."""


class AgentsServing(AppServing):
    """The agents' app."""

    event_streams: int = Field(default=20, ge=1)
    """Streams of events that a key and those delegated from it may have open at once, in each
    process."""
    approval_by_another: bool = False
    """Whether a tool call must be approved with another key than the one that asked for the
    task."""


class KeyConfig(Model):
    """Defaults of API keys, and how long processes cache them."""

    requests_per_minute: int = Field(default=6000, ge=1)
    """Default limit of a key."""
    delegated_ttl_s: int = Field(default=900, ge=1)
    """Lifetime of a key that is delegated to an agent, seconds."""
    # Without a cache, each request would query the database for its key.
    cache_s: float = Field(default=2.0, ge=0)
    """How long a process caches a key, seconds; a revoked key may be accepted for as long."""


class RequestLimits(Model):
    """Largest body of a request, the same for every app; checked before anything is built of it."""

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


class TrainingServing(Model):
    """Trainings over HTTP: what a request may choose. The recipes themselves are not bounded."""

    models: tuple[str, ...] = ()
    """Hub ids that a request may name as ``model.name``, beside the registry's base models."""
    bounds: TrainingBounds = TrainingBounds()
    """Bounds of every tenant that has none of its own."""
    tenants: dict[str, TrainingBounds] = Field(default_factory=dict)
    """Bounds of single tenants, whole."""
    keep_secrets: tuple[str, ...] = ()
    """Environment variables with secrets that such jobs get, such as ``HF_TOKEN``; those of Ray,
    of the database, of the artifact store and of ``conf/`` they have in any case."""

    def bounds_of(self, tenant: str | None) -> TrainingBounds:
        """The bounds of a tenant; None is the operator."""
        return self.tenants.get(tenant or "default", self.bounds)


class ServingConfig(Model):
    """One port for models, features, agents and tabular models."""

    host: str = "127.0.0.1"
    """Interface of the gateway and of the replicas' own ports."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port of the gateway; 0 picks a free one."""
    keys: KeyConfig = KeyConfig()
    """Keys and limits."""
    limits: RequestLimits = RequestLimits()
    """Limits of a request's body."""
    gateway: AppServing = AppServing()
    """The app at ``/``: health, docs, models, training, monitoring."""
    llm: LlmServing = LlmServing()
    """The app at ``/v1``."""
    features: FeaturesServing = FeaturesServing()
    """The app at ``/features``."""
    tabular: AppServing = AppServing()
    """The app at ``/predict``."""
    agents: AgentsServing = AgentsServing()
    """The app at ``/agents``."""
    training: TrainingServing = TrainingServing()
    """Trainings that ``/llm/train`` starts."""
    throughput: bool = True
    """Ray Serve's throughput switch: user code on the server's own event loop."""
    loopback_only: bool = True
    """Keep HAProxy's statistics and metrics on loopback and hide its route list; set to false on
    clusters of several machines, whose other nodes lack the wrapper script."""
    connections_per_source: int = Field(default=512, ge=0)
    """Connections that one address may have open to the gateway at once; 0 for any number, such as
    behind a proxy of your own, from which all of them come."""
    ready_timeout_s: float = Field(default=300.0, gt=0)
    """How long a deployment waits for ``/readyz``, seconds."""

    @property
    def url(self) -> str:
        """URL of the gateway."""
        return f"http://{self.host}:{self.port}"

    @property
    def local_url(self) -> str:
        """URL of the gateway for processes on its machine."""
        # "All interfaces" is an address to listen on, not one to connect to.
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{host}:{self.port}"
