"""Settings of the gateway and the apps behind it."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from sunloom.config.api_keys import KeyConfig
from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model
from sunloom.config.names import Name
from sunloom.config.request_limits import LlmLimits, RequestLimits, TrainingBounds


class FurtherModel(Model):
    """A base model that the app serves beside ``serving.llm.model``, with an engine of its own."""

    model: str
    """A name or ``name@version`` of the registry, a folder, or a hub id."""
    name: Name | None = None
    """What clients call it; the registry's name or the last part of folder or id if empty."""
    task: Literal["generate", "pooling"] = "generate"
    """``pooling`` models answer ``/v1/embeddings``, the others completions and chats."""
    adapters: tuple[str, ...] = ()
    """Adapters that must have answered before ``/readyz`` reports ready; all promoted ones if
    empty."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt and answer together, tokens; that of ``serving.llm`` if empty, and of a
    ``pooling`` model its own."""
    engine: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, passed on as they are."""


class LlmServing(Model):
    """The language model app: base models and every adapter trained on them."""

    enabled: bool = True
    """Whether the app is deployed; without a base model in the registry it is left out."""
    model: str = "tool-base"
    """Base model: a name or ``name@version`` of the registry, a folder, or a hub id."""
    models: tuple[FurtherModel, ...] = ()
    """Further base models, on CPU; each has an engine of its own in every replica, and so its
    memory: some 1 GB and ``kv_cache_gib``."""
    adapters: tuple[str, ...] = ()
    """Adapters that must have answered a request before ``/readyz`` reports ready; all promoted
    ones if empty."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of weights and activations; ``auto`` measures this machine."""
    max_model_len: int = Field(default=1024, ge=16)
    """Longest prompt and answer together, tokens."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Largest number of requests in one engine step."""
    prompt_tokens_per_step: int | None = Field(default=None, ge=16)
    """Tokens of one tenant's prompts in one engine step, which every other tenant waits for; if
    empty, 64 on CPU and as many as the engine takes on an accelerator."""
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

    @model_validator(mode="after")
    def _an_accelerator_has_one_engine(self) -> LlmServing:
        if self.models and self.accelerator is not None:
            raise ValueError("serving.llm.models takes no serving.llm.accelerator")
        return self

    def of_further(self, further: FurtherModel) -> LlmServing:
        """The settings of a further model's engine."""
        own: dict[str, object] = {
            "model": further.model,
            "models": (),
            "adapters": further.adapters,
            "engine": further.engine,
        }
        if further.max_model_len is not None:
            own["max_model_len"] = further.max_model_len
        return self.model_copy(update=own)


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
    """Streams of events that a key and those delegated from it may have open at once, over all
    replicas."""
    approval_by_another: bool = False
    """Whether a tool call must be approved with another key than the one that asked for the
    task."""
    most_agents: int = Field(default=64, ge=1, le=10_000)
    """Agents that a tenant may have."""
    most_working: int = Field(default=8, ge=1, le=1_000)
    """Agents of a tenant with unfinished tasks at once; each is a process of some 300 MB."""
    idle_s: float = Field(default=300.0, ge=1, le=86_400)
    """How long an agent's process waits for tasks before it ends, seconds; the next task starts it
    again."""
    most_tasks: int = Field(default=1_000, ge=1, le=100_000)
    """Unfinished tasks of a tenant."""


class TrainingServing(Model):
    """Trainings over HTTP: what a request may choose. The recipes themselves are not bounded."""

    models: tuple[str, ...] = ()
    """Hub ids that a request may name as ``model.base_model``, beside the registry's models."""
    bounds: TrainingBounds = TrainingBounds()
    """Bounds of every tenant that has none of its own."""
    tenants: dict[str, TrainingBounds] = Field(default_factory=dict)
    """Bounds of single tenants, whole."""
    event_streams: int = Field(default=20, ge=1)
    """Streams of ``GET /llm/training/{job_id}/events`` that a key and those delegated from it may
    have open at once, over all replicas."""
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
    # Ray's workers have 15: with 4 more, the engine has two of three turns where a core is short.
    niceness: int = Field(default=4, ge=0, le=19)
    """By how much the CPU priority of the apps at ``/``, ``/predict`` and ``/agents`` is below that
    of the engine and of feature reads, which must not wait for what others send there."""
    loopback_only: bool = True
    """Keep HAProxy's statistics and metrics on loopback, behind 401, and hide its route list. Its
    other bounds hold in any case."""
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
