"""The language app's replica: the vLLM engine, and vLLM's own HTTP app behind the middleware.

``ray.serve.llm`` starts the engine and builds vLLM's app; HAProxy reaches the replica directly, so
a token stream passes through no second Python process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.config.request_limits import RequestLimits
from sunloom.config.serving import LlmServing
from sunloom.core.database import open_database
from sunloom.core.telemetry import configure_logging, get_logger
from sunloom.errors import ArtifactError, ServingError
from sunloom.llm.engines import engine_arguments
from sunloom.serving.apps.llm.completions import (
    MODELS,
    ROUTES,
    CompletionsMiddleware,
    ServedEngine,
    build_probe_request,
)
from sunloom.serving.apps.llm.grammar_checks import check_in_thread
from sunloom.serving.apps.llm.model_resolver import (
    BaseLanguageModel,
    ResolvedModel,
    build_resolver,
    required_models,
)
from sunloom.serving.apps.llm.prompt_turns import read_prompts_in_turn
from sunloom.serving.apps.llm.token_meter import watch_engine
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.key_holds import KeyHolds
from sunloom.serving.auth.middleware import (
    GatewayMiddleware,
    KeyAdmission,
    set_process_admission,
)
from sunloom.serving.metrics.request_metrics import RequestMetrics

_logger = get_logger("serving.llm")

# 10 ms of a core for a model of two million parameters, as much as the rest of a step; as many as
# vLLM reads at once by default take 0.3 s, and another tenant's token waits for two such steps.
_CPU_PROMPT_TOKENS = 64


class LlmReplica:
    """The engines and their HTTP app.

    Args:
        settings: The settings as plain data.
        bases: ``BaseLanguageModel`` of each engine as plain data.
    """

    # Serve awaits it: the replica counts as started when the engines run.
    async def __init__(  # type: ignore[misc]
        self, settings: Mapping[str, Any], bases: Sequence[Mapping[str, Any]]
    ) -> None:
        self._settings = Settings.model_validate(settings)
        config = self._settings.serving.llm
        if config.accelerator is None:
            disable_compilation_without_compiler()
            preload_engine_core()
        # One after another: each measures the memory that the others have left.
        self._engines = [
            await RunningEngine.start(config, BaseLanguageModel(**base)) for base in bases
        ]

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once the engines run."""
        configure_logging(self._settings)
        database, config = open_database(self._settings), self._settings.serving.llm
        admission = KeyAdmission(self._settings, RequestMetrics(database, "llm"))
        set_process_admission(admission)
        app = CompletionsMiddleware(
            [await engine.serve(self._settings) for engine in self._engines],
            admission,
            config,
            shared=KeyHolds(database, "tokens") if config.replicas > 1 else None,
        )
        return GatewayMiddleware(
            app,
            admission,
            "llm",
            server_sets_request_id=True,
            limits=body_limits(self._settings),
        )

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica of which an engine is dead."""
        for engine in self._engines:
            await engine.check_health()


class RunningEngine:
    """One engine, and vLLM's own app in front of it.

    Args:
        base: Its base model.
        config: Its settings.
        server: Serve's ``LLMServer`` around it.
    """

    def __init__(self, base: BaseLanguageModel, config: LlmServing, server: Any) -> None:
        self._base, self._config, self._server = base, config, server
        self._loading = asyncio.Lock()

    @classmethod
    async def start(cls, config: LlmServing, base: BaseLanguageModel) -> RunningEngine:
        """Start an engine in this process.

        Args:
            config: Of the app.
            base: Its base model.
        """
        task, own = "generate", config
        if base.further is not None:
            further = config.models[base.further]
            task, own = further.task, config.of_further(further)
        is_pooling = task == "pooling"
        llm_config = build_llm_config(own, base, is_pooling=is_pooling)
        if is_pooling and further.max_model_len is None:
            del llm_config.engine_kwargs["max_model_len"]
        return cls(base, own, await start_server(own, base, llm_config))

    async def serve(self, settings: Settings) -> ServedEngine:
        """The engine's app, its models warm."""
        engine, config = self._server.engine._engine_client, self._config
        self._app = await self._server.engine.build_asgi_app()
        resolver = build_resolver(settings, self._base)
        watch_engine(engine)
        check_in_thread(engine)
        if (tokens := prompt_tokens_per_step(config)) is not None:
            read_prompts_in_turn(engine, tokens)
        # A pooling model has no completions. Not asked of the OpenAPI document, which takes seconds
        # to be made.
        paths = {getattr(route, "path", None) for route in self._app.routes}
        offered = frozenset(path for path in ROUTES if path in paths)
        for name in required_models(settings, resolver):
            await self._warm_up(await resolver.resolve(name), offered)
        return ServedEngine(
            app=self._app,
            resolver=resolver,
            load=self._load,
            max_model_len=engine.model_config.max_model_len,
            describe=self._describe,
            offered=offered,
        )

    async def check_health(self) -> None:
        """Raise where the engine is dead."""
        await self._server.check_health()

    def _describe(self) -> dict[str, Any]:
        """The OpenAPI document of vLLM, with the routes that are open to clients."""
        document: dict[str, Any] = self._app.openapi()
        paths = document["paths"]
        return document | {
            "paths": {path: paths[path] for path in (MODELS, *ROUTES) if path in paths}
        }

    async def _load(self, model: ResolvedModel) -> None:
        """Load an adapter into the running engine; takes milliseconds, and only the first time."""
        models = self._app.state.openai_serving_models
        if model.folder is None or model.engine_name in models.lora_requests:
            return
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        async with self._loading:
            # Another request may have loaded it while this one waited for the lock.
            if model.engine_name in models.lora_requests:
                return
            result = await models.load_lora_adapter(
                LoadLoRAAdapterRequest(lora_name=model.engine_name, lora_path=str(model.folder))
            )
        if not isinstance(result, str):
            raise ArtifactError(
                f"The adapter {model.engine_name} cannot be loaded: {result.error.message}",
                "Its rank may not exceed serving.llm.max_lora_rank.",
            )
        _logger.info("loaded %s", model.engine_name)

    async def _warm_up(self, model: ResolvedModel, offered: Collection[str]) -> None:
        """Send a model its first request, which takes seconds for an adapter."""
        import httpx

        await self._load(model)
        path, body = build_probe_request(model.engine_name, offered)
        # To vLLM's app directly: a warm-up needs no key and uses up no quota.
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            response = await client.post(path, json=body, timeout=120)
        if response.status_code != 200:
            raise ServingError(f"{model.engine_name} does not answer {path}: {response.text[:300]}")


async def start_server(config: LlmServing, base: BaseLanguageModel, llm_config: Any) -> Any:
    """Start the engine in this process; Serve's ``LLMServer`` around it."""
    from ray.serve.llm import LLMServer

    server = LLMServer.sync_init(llm_config)
    if config.accelerator is None and Path(base.source).is_dir():
        # Nothing to download: saves a task that imports torch only to find the folder.
        llm_config.get_or_create_callback().ctx.run_init_node = False
    if config.accelerator is None:
        server._engine_cls = _in_process_engine()
    # Its own start() would also start an actor for usage statistics.
    server.engine = server._engine_cls(llm_config)
    await server.engine.start()
    return server


def disable_compilation_without_compiler() -> None:
    """Let the engine sample eagerly on a node without a C++ compiler, before torch is imported.

    Sampling is the one function that vLLM compiles on CPU: three times as fast, but without a
    compiler every request would fail that samples.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
        _logger.warning("no %s here: tokens are sampled by uncompiled code, slower", compiler)


def preload_engine_core() -> None:
    """Begin the imports of the engine core's process.

    They take as long as those of this process, and would begin after them.
    """
    context = multiprocessing.get_context("forkserver")
    compiler = "sunloom.serving.apps.llm.one_compiler_thread"
    context.set_forkserver_preload(["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", compiler])
    forkserver.ensure_running()


def _in_process_engine() -> Any:
    """An engine with its worker inside the engine core, one process less on CPU."""
    import vllm.v1.engine.utils as engine_processes
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    def forkserver_context() -> ForkServerContext:
        return multiprocessing.get_context("forkserver")

    # vLLM's setting knows "spawn" and "fork" only, and in an actor of Ray the former alone.
    engine_processes.get_mp_context = forkserver_context

    class InProcessEngine(VLLMEngine):
        def _start_async_llm_engine(
            self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
        ) -> Any:
            vllm_engine_config.parallel_config.distributed_executor_backend = "uni"
            return super()._start_async_llm_engine(
                vllm_engine_args, vllm_engine_config, placement_group
            )

    return InProcessEngine


def build_llm_config(
    config: LlmServing, base: BaseLanguageModel, *, is_pooling: bool = False
) -> Any:
    """The configuration for ``ray.serve.llm``."""
    from ray.serve.llm import LLMConfig

    hardware: dict[str, Any] = {"accelerator_config": {"kind": "cpu"}}
    if config.accelerator:
        hardware = {"accelerator_type": config.accelerator}
    arguments = {**engine_arguments(config, base.source, has_adapters=not is_pooling)}
    if is_pooling:
        arguments["runner"] = "pooling"
    else:
        arguments |= {
            "long_prefill_token_threshold": prompt_tokens_per_step(config) or 0,
            # Without a parser tool calls would stay text, and agents would see none.
            "enable_auto_tool_choice": True,
            "tool_call_parser": config.tool_parser,
            # A client sees in its usage how much of its prompt was cached.
            "enable_prompt_tokens_details": True,
        }
    return LLMConfig(
        # The name that the engine answers to; adapters are loaded beside it on request.
        model_loading_config={"model_id": base.name, "model_source": base.source},
        # Arguments of vLLM's engine and front end.
        engine_kwargs={**arguments, **config.engine},
        log_engine_metrics=False,
        **hardware,
    )


def body_limits(settings: Settings) -> RequestLimits:
    """The limits of bodies, which this app's own are not above."""
    limits, own = settings.serving.limits, settings.serving.llm.limits
    body_bytes = min(limits.body_bytes, own.max_body_bytes)
    return limits.model_copy(update={"body_bytes": body_bytes})


def prompt_tokens_per_step(config: LlmServing) -> int | None:
    """Tokens of one tenant's prompts in one engine step; None is any number."""
    tokens = config.prompt_tokens_per_step
    if tokens is None and config.accelerator is None:
        tokens = _CPU_PROMPT_TOKENS
    return tokens and min(tokens, config.max_model_len)


def placement_bundle(config: LlmServing) -> dict[str, float]:
    """Resources of the replica's placement group; the engine needs some, however little."""
    if config.accelerator is None:
        # As for the other apps, requests must not queue behind training.
        return {"CPU": 0.001}
    return {"GPU": 1, f"accelerator_type:{config.accelerator}": 0.001}
