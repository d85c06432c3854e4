"""Judging an adapter in this process against judging it through the served model.

    sunloom demo --keep                                  # in another shell: registers and serves
    python -m benchmarks.llm.judge --key KEY [--url http://127.0.0.1:8000] [--clients 32]

Both continue the same turns of the held-out conversations, for the base and for the adapter. The
served model is asked by many clients at once, and its start is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import openai

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.llm.conversation_split import held_out_conversations
from sunloom.llm.evaluation import Generate, exact_match, greedy
from sunloom.llm.models import load_adapter, load_model, load_tokenizer

RESULT = Path(__file__).parents[1] / "results" / "llm_judge.json"


def served(model: str, options: argparse.Namespace, max_new_tokens: int) -> Generate:
    """Continues prompts as the gateway's model does."""

    async def ask_all(prompts: Sequence[str]) -> list[str]:
        client = openai.AsyncOpenAI(
            base_url=f"{options.url}/v1", api_key=options.key, max_retries=20, timeout=300
        )
        clients = asyncio.Semaphore(options.clients)

        async def ask(prompt: str) -> str:
            async with clients:
                answer = await client.completions.create(
                    model=model,
                    prompt=prompt,
                    temperature=0,
                    max_tokens=max_new_tokens,
                    extra_body={"add_special_tokens": False},
                )
            return answer.choices[0].text

        return await asyncio.gather(*map(ask, prompts))

    return lambda prompts: asyncio.run(ask_all(prompts))


def main() -> None:
    """Judge both ways and write the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("conf/llm/retail_agent.yaml"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", required=True, help="with the scope llm and enough requests")
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    recipe = load_config(LlmRecipe, recipe=options.recipe).config
    registry, conversations = open_registry(recipe), held_out_conversations(recipe)
    version = registry.get(recipe.output.name)
    base = registry.get(str(version.lineage["base"]))
    limit = recipe.evaluation.max_new_tokens
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds[name] = round(time.perf_counter() - start, 1)

    tokenizer = load_tokenizer(str(registry.path(base)), recipe.model)
    model = load_model(str(registry.path(base)), recipe.model)
    for name in (base.name, version.name):
        if name == version.name:
            model = load_adapter(model, registry.path(version))
        model.eval()
        for place, generate in {
            "in process": greedy(model, tokenizer, limit),
            "served": served(name, options, limit),
        }.items():
            timed(
                f"{name} {place}",
                lambda generate=generate: exact_match(generate, tokenizer, conversations),
            )
    timed("a load of the base", lambda: load_model(str(registry.path(base)), recipe.model))
    ours, theirs = (
        sum(s for n, s in seconds.items() if n.endswith(p)) for p in ("process", "served")
    )
    result = {
        "seconds": seconds,
        "conversations": len(conversations),
        "clients": options.clients,
        "served_over_in_process": round(theirs / ours, 2),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
