"""vLLM's engine that draws completions for training: weights in, tokens and probabilities out.

One process, in an actor of its own: the base is loaded once, and each step's adapter comes as
tensors and goes through a file in memory, of a few milliseconds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sunloom.config.llm import Grpo, ModelConfig
from sunloom.core.telemetry import silence_libraries
from sunloom.llm.conversations import Message
from sunloom.llm.engines import cpu_environment
from sunloom.llm.models import load_tokenizer
from sunloom.llm.rewards import Columns, RewardSum

# What vLLM gives at most by default; the likeliest tokens are those that are drawn.
CANDIDATES = 20
# Ranks that vLLM's layers are built for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
LONGEST_RANK = _RANKS[-1]
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class EngineSettings:
    """An engine.

    Attributes:
        model: Folder or hub id of the base.
        options: Its revision, and whether its code may run.
        arguments: Further ones of vLLM's engine.
        kv_cache_gib: On CPU.
        dtype: Number format of weights and products.
        max_length: Longest prompt with completion, tokens.
        max_sequences: That are drawn at once.
        rank: Of the adapters; None where whole weights are exchanged.
        threads: On CPU.
        use_gpu: Whether it has one.
    """

    model: str
    options: ModelConfig
    arguments: Mapping[str, Any]
    kv_cache_gib: int
    dtype: str
    max_length: int
    max_sequences: int
    rank: int | None
    threads: int
    use_gpu: bool


@dataclass(frozen=True)
class PromptToDraw:
    """A prompt.

    Attributes:
        ids: Its tokens.
        messages: The same for rewards.
        columns: Of its row.
        seed: Of its first completion; each further one has the next.
    """

    ids: Sequence[int]
    messages: Sequence[Message]
    columns: Columns
    seed: int


class Drawn(NamedTuple):
    """A completion.

    Attributes:
        ids: Its tokens, the end mark included.
        logprobs: Of each token.
        is_truncated: Whether it has no end.
        reward: Of its text.
        text: Without special tokens.
    """

    ids: list[int]
    logprobs: list[float]
    is_truncated: bool
    reward: float
    text: str


@dataclass(frozen=True)
class Weights:
    """What an engine draws with.

    Attributes:
        tensors: Of an adapter by PEFT's names, or of the whole model by transformers', on CPU.
        adapter: PEFT's configuration; None with whole weights.
    """

    tensors: Mapping[str, Any]
    adapter: Mapping[str, Any] | None = field(default=None)


class RolloutEngine:
    """An engine and the weights that it draws with, in this process.

    Args:
        settings: What it is.
    """

    def __init__(self, settings: EngineSettings) -> None:
        silence_libraries()
        os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
        # The engine's own process would be one more that imports torch.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if not settings.use_gpu:
            os.environ |= cpu_environment(settings.threads, settings.kv_cache_gib)
        from vllm import LLM

        self._tokenizer = load_tokenizer(settings.model, settings.options)
        lora: dict[str, Any] = {}
        if settings.rank is not None:
            rank = next((r for r in _RANKS if r >= settings.rank), settings.rank)
            # One: what is trained. Loading the next pushes it out.
            lora = {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1, "max_cpu_loras": 1}
        self._llm = LLM(
            model=settings.model,
            revision=settings.options.revision,
            trust_remote_code=settings.options.trust_remote_code,
            # Pickled weights are code.
            load_format="safetensors",
            dtype=settings.dtype,
            max_model_len=settings.max_length,
            max_num_seqs=settings.max_sequences,
            # CUDA graphs exist on GPU only.
            enforce_eager=not settings.use_gpu,
            # With the temperature, as they are drawn and trained.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            disable_log_stats=True,
            **lora,
            **settings.arguments,
        )
        self._adapter: Any = None
        self._versions = 0

    def load(self, weights: Weights) -> None:
        """Draw with these weights from now on; older ones are forgotten."""
        if weights.adapter is None:
            # In this process: nothing is copied on the way.
            self._llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": iter(weights.tensors.items())}
            )
            # Its blocks were computed by other weights.
            self._llm.reset_prefix_cache()
            return
        from safetensors.torch import save_file
        from vllm.lora.request import LoRARequest

        place = _MEMORY if _MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(dir=place, prefix="sunloom-adapter-") as folder:
            save_file(dict(weights.tensors), str(Path(folder) / "adapter_model.safetensors"))
            (Path(folder) / "adapter_config.json").write_text(json.dumps(dict(weights.adapter)))
            # A name and a number of its own: under the same ones vLLM would go on with what it
            # has, prefixes that older weights computed included.
            self._versions += 1
            request = LoRARequest(f"policy-{self._versions}", self._versions, folder)
            self._llm.llm_engine.add_lora(request)
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
        self._adapter = request

    def next_logprobs(
        self, prompts: Sequence[Sequence[int]], temperature: float
    ) -> list[dict[int, float]]:
        """Log-probabilities of the likeliest tokens after each prompt."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=1,
            logprobs=CANDIDATES,
            temperature=temperature,
            seed=0,
            detokenize=False,
        )
        outputs = self._generate(prompts, [sampling] * len(prompts))
        return [
            {token: one.logprob for token, one in output.outputs[0].logprobs[0].items()}
            for output in outputs
        ]

    def draw(self, prompts: Sequence[PromptToDraw], objective: Grpo) -> list[list[Drawn]]:
        """A group of completions for each prompt, with their rewards."""
        from vllm import SamplingParams

        rewards = RewardSum(objective.rewards)
        sampling = [
            SamplingParams(
                n=objective.group_size,
                temperature=objective.temperature,
                max_tokens=objective.max_completion_length,
                seed=prompt.seed,
                logprobs=0,
                detokenize=False,
            )
            for prompt in prompts
        ]
        outputs = self._generate([prompt.ids for prompt in prompts], sampling)
        return [
            [self._read(prompt, completion, rewards) for completion in output.outputs]
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    def _read(self, prompt: PromptToDraw, completion: Any, rewards: RewardSum) -> Drawn:
        ids = list(completion.token_ids)
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Drawn(
            ids=ids,
            logprobs=[
                step[token].logprob for token, step in zip(ids, completion.logprobs, strict=True)
            ],
            is_truncated=completion.finish_reason == "length",
            reward=rewards(prompt.messages, prompt.columns, text),
            text=text,
        )

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: list[Any]) -> list[Any]:
        outputs: list[Any] = self._llm.generate(
            [{"prompt_token_ids": list(ids)} for ids in prompts],
            sampling,
            lora_request=self._adapter,
            use_tqdm=False,
        )
        return outputs


def start_engine(settings: EngineSettings) -> Any:
    """The handle of an actor with an engine; it ends with the process that calls this."""
    import ray

    variables = {"TOKENIZERS_PARALLELISM": "false"}
    if not settings.use_gpu:
        variables |= cpu_environment(settings.threads, settings.kv_cache_gib)
    actor = ray.remote(RolloutEngine).options(
        # The trainers wait while it draws: it shares their cores.
        num_cpus=0,
        num_gpus=1 if settings.use_gpu else 0,
        runtime_env={"env_vars": variables},
        # Not inside the workers' reservation, which has room for them alone.
        scheduling_strategy="DEFAULT",
    )
    return actor.remote(settings)


def end_engine(engine: Any) -> None:
    """End an actor of ``start_engine``."""
    import ray

    ray.kill(engine)
