"""Batch generation on Ray: prompts of Parquet files answered block by block by vLLM's engines.

A block is a range of rows and one file of answers, written whole or not at all: a run that was
killed goes on with the blocks that have no file. Engines are actors that Ray Data hands blocks to.
Not ``ray.data.llm``: its asynchronous front end, with an output for each row and token, had 0.6 of
the rate of vLLM's offline engine on CPU (``benchmarks/llm/batch.py --ray-data-llm``).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunloom.config.generation import BatchGeneration, GenerationRecipe
from sunloom.config.serving import LlmServing
from sunloom.core.artifacts import fingerprint
from sunloom.core.cluster import connect
from sunloom.core.files import atomic_path, write_atomic
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.core.ray_tasks import map_blocks
from sunloom.core.telemetry import progress_bar
from sunloom.data.sources.table_files import data_files
from sunloom.errors import DataError, NotFoundError, UsageError
from sunloom.llm.conversation_files import hash_files
from sunloom.llm.conversation_formats import (
    BadRowError,
    check_messages,
    check_tools,
    parse_messages,
)
from sunloom.llm.conversations import Conversation
from sunloom.llm.encoding import render
from sunloom.llm.engines import engine_arguments, engine_environment
from sunloom.llm.models import ADAPTER_KIND, BASE_KIND, require_safetensors, served_by_merging

if TYPE_CHECKING:
    import pyarrow as pa

ANSWER_COLUMNS = (
    "row", "generated_text", "finish_reason", "prompt_tokens", "completion_tokens", "error",
)  # fmt: skip
"""Columns beside the input's: the row's number in the input, from 0; the answer; why there is none.
"""
MANIFEST = "generation.json"
QUARANTINE = "quarantine.jsonl"
_SUFFIXES = (".parquet",)


@dataclass(frozen=True)
class PromptBlock:
    """A range of rows of an input file.

    Attributes:
        number: Of the block, and of its file of answers.
        file: Where the rows are.
        start: The first of them in that file.
        rows: How many.
        first_row: Number of the first one in the whole input.
    """

    number: int
    file: Path
    start: int
    rows: int
    first_row: int

    def read(self) -> pa.Table:
        """The rows."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as file:
            groups: list[int] = []
            start, position = self.start, 0
            for index in range(file.num_row_groups):
                size = file.metadata.row_group(index).num_rows
                if position + size > self.start and position < self.start + self.rows:
                    if not groups:
                        start = self.start - position
                    groups.append(index)
                position += size
            table: pa.Table = file.read_row_groups(groups)
            return table.slice(start, self.rows)

    def answers(self, folder: Path) -> Path:
        """Its file of answers."""
        return folder / f"part-{self.number:06d}.parquet"


@dataclass(frozen=True)
class GenerationTask:
    """What an engine's process needs to answer blocks.

    Attributes:
        source: Folder or hub id of the base model.
        adapter: Name and folder of an adapter on it.
        column: Of the prompts.
        config: Sampling and the output's folder.
        engine: The engine's settings.
        schema: A JSON schema that answers follow.
        blocks: Of the whole input.
    """

    source: str
    adapter: tuple[str, Path] | None
    column: str
    config: BatchGeneration
    engine: LlmServing
    schema: str | None
    blocks: tuple[PromptBlock, ...]

    def __call__(self, number: pa.Table) -> BlockResult:
        """Answer a block and write its file."""
        return answer_block(self, self.blocks[number["block"][0].as_py()])


@dataclass(frozen=True)
class BlockResult:
    """What became of a block.

    Attributes:
        rows: Of it.
        bad: Reason to number of rows that were not answered.
        prompt_tokens: Of the answered rows.
        completion_tokens: Of their answers.
        began_s: When the engine had started and the block began, seconds of the epoch.
        ended_s: When its file was written.
    """

    rows: int
    bad: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class GenerationResult:
    """Outcome of a batch generation.

    Attributes:
        model: ``name@version`` of what answered, or its folder or hub id.
        output: Folder of the answers.
        rows: Of the input, each once in the output.
        quarantined: Reason to number of rows without an answer.
        prompt_tokens: Of this run.
        completion_tokens: Of this run.
        kept_blocks: Blocks that an earlier run had finished.
        blocks: Blocks of the input.
        seconds: From the first block's begin to the last one's end, engines' start left out.
        tokens_per_second: Of the answers, in this run; None where all blocks were finished.
    """

    model: str
    output: str
    rows: int
    quarantined: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    kept_blocks: int
    blocks: int
    seconds: float
    tokens_per_second: float | None


def generate_batch(recipe: GenerationRecipe) -> GenerationResult:
    """Answer every row of a Parquet input, once; goes on where an earlier run ended.

    Args:
        recipe: ``generation`` is the work, ``serving.llm`` the engine.

    Raises:
        NotFoundError: The registry has no such model.
        UsageError: No input or column, or the output's folder holds the answers of another run.
        DataError: Too many rows have no usable prompt.
    """
    config = recipe.generation
    blocks = plan_blocks(config)
    column = _find_column(config)
    source, adapter, ref = resolve_generator(config.model, open_registry(recipe))
    schema = config.sampling.json_schema
    task = GenerationTask(
        source=source,
        adapter=adapter,
        column=column,
        config=config,
        engine=recipe.serving.llm,
        schema=_read_schema(schema) if schema else None,
        blocks=blocks,
    )
    _claim_folder(task, ref)
    open_blocks = [block for block in blocks if not block.answers(config.output).is_file()]
    if open_blocks:
        connect(recipe)
    results = _run(task, open_blocks)
    quarantined = _write_quarantine(config.output, blocks)
    rows = sum(block.rows for block in blocks)
    bad = sum(quarantined.values())
    if bad > config.max_bad_share * rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in quarantined.items())
        raise DataError(
            f"{bad} of {rows} rows have no usable prompt: {reasons}.",
            f"{config.output / QUARANTINE} names them; generation.max_bad_share allows more.",
            "generation.input",
        )
    seconds = 0.0
    if results:
        seconds = max(r.ended_s for r in results) - min(r.began_s for r in results)
    tokens = sum(result.completion_tokens for result in results)
    return GenerationResult(
        model=ref,
        output=str(config.output),
        rows=rows,
        quarantined=quarantined,
        prompt_tokens=sum(result.prompt_tokens for result in results),
        completion_tokens=tokens,
        kept_blocks=len(blocks) - len(open_blocks),
        blocks=len(blocks),
        seconds=round(seconds, 2),
        tokens_per_second=round(tokens / seconds, 1) if seconds else None,
    )


def plan_blocks(config: BatchGeneration) -> tuple[PromptBlock, ...]:
    """The blocks of an input, in the order of its rows; no block spans two files."""
    import pyarrow.parquet as pq

    blocks: list[PromptBlock] = []
    first = 0
    for file in data_files(config.input, _SUFFIXES):
        rows = pq.read_metadata(file).num_rows
        for start in range(0, rows, config.block_rows):
            size = min(config.block_rows, rows - start)
            blocks.append(PromptBlock(len(blocks), file.absolute(), start, size, first + start))
        first += rows
    if not blocks:
        raise UsageError(f"{config.input} has no rows.", param="generation.input")
    return tuple(blocks)


def resolve_generator(
    model: str, registry: ModelRegistry
) -> tuple[str, tuple[str, Path] | None, str]:
    """Folder or hub id of a model's base, its adapter's name and folder, and its reference.

    Raises:
        NotFoundError: The registry has no such model.
        UsageError: It is no language model, or its weights are pickled.
    """
    if Path(model).is_dir():
        require_safetensors(Path(model))
        return str(Path(model).absolute()), None, model
    try:
        version = registry.get(model)
    except NotFoundError:
        # Hub ids have an owner; a bare word was meant for the registry.
        if "/" in model:
            return model, None, model
        raise
    folder = registry.path(version)
    if version.kind not in (BASE_KIND, ADAPTER_KIND):
        raise UsageError(
            f"{version.ref} is of the kind {version.kind}, and a language model generates.",
            "sunloom models list shows the kinds.",
            "generation.model",
        )
    require_safetensors(folder)
    if version.kind == BASE_KIND:
        return str(folder), None, version.ref
    if (own := served_by_merging(folder)) is not None:
        raise UsageError(
            f"{version.ref} has {own}, which vLLM cannot add to a base.",
            f"sunloom llm merge {version.ref} makes a model that it serves.",
            "generation.model",
        )
    base = str(version.lineage["base"])
    location = base if Path(base).is_dir() else str(registry.path(registry.get(base)))
    return location, (version.ref, folder), version.ref


def answer_block(task: GenerationTask, block: PromptBlock) -> BlockResult:
    """Answer a block's rows and write them; runs in an engine's process.

    Args:
        task: The work.
        block: One of its blocks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    engine = _load_engine(task.source, task.adapter is not None, task.engine.model_dump_json())
    began = time.time()
    table = block.read()
    prompts, errors = _read_prompts(task, table, engine.get_tokenizer())
    good = [index for index, prompt in enumerate(prompts) if prompt is not None]
    outputs = engine.generate(
        [{"prompt_token_ids": prompts[index]} for index in good],
        [_sampling_parameters(task, block.first_row + index) for index in good],
        lora_request=_lora_request(task),
        use_tqdm=False,
    )
    answers: list[Any] = [None] * block.rows
    for index, output in zip(good, outputs, strict=True):
        answers[index] = output.outputs[0]
    prompt_tokens = [len(prompt) if prompt is not None else 0 for prompt in prompts]
    completion_tokens = [len(a.token_ids) if a is not None else 0 for a in answers]
    columns = {
        "row": pa.array(range(block.first_row, block.first_row + block.rows), pa.int64()),
        "generated_text": pa.array([a and a.text for a in answers], pa.string()),
        "finish_reason": pa.array([a and a.finish_reason for a in answers], pa.string()),
        "prompt_tokens": pa.array(prompt_tokens, pa.int32()),
        "completion_tokens": pa.array(completion_tokens, pa.int32()),
        "error": pa.array(errors, pa.string()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    with atomic_path(block.answers(task.config.output)) as path:
        pq.write_table(table, path)
    return BlockResult(
        rows=block.rows,
        bad=dict(Counter(error.partition(":")[0] for error in errors if error)),
        prompt_tokens=sum(prompt_tokens),
        completion_tokens=sum(completion_tokens),
        began_s=began,
        ended_s=time.time(),
    )


@cache
def _load_engine(source: str, has_adapter: bool, engine: str) -> Any:
    """The engine of this process."""
    config = LlmServing.model_validate_json(engine)
    os.environ.update(engine_environment(config))
    # In this process: blocks are answered one after another, and nothing waits meanwhile.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # vLLM is imported here, with these variables.
    from vllm import LLM

    arguments = engine_arguments(config, source, has_adapters=has_adapter)
    return LLM(model=source, disable_log_stats=True, **{**arguments, **config.engine})


def _read_prompts(
    task: GenerationTask, table: pa.Table, tokenizer: Any
) -> tuple[list[list[int] | None], list[str | None]]:
    """Tokens of each row's prompt, and why a row has none."""
    longest = task.engine.max_model_len
    prompts: list[list[int] | None] = []
    errors: list[str | None] = []
    tools = table["tools"].to_pylist() if "tools" in table.column_names else [None] * len(table)
    for value, row_tools in zip(table[task.column].to_pylist(), tools, strict=True):
        tokens, error = None, None
        try:
            messages = parse_messages(value)
            if task.column == "messages" and not isinstance(messages, list):
                raise BadRowError("no messages", "the value is no list of messages")
            tokens = tokenise_prompt(tokenizer, messages, row_tools)
            if len(tokens) >= longest:
                error = f"too long: {len(tokens)} tokens, and {longest} with the answer are allowed"
        except BadRowError as bad:
            error = str(bad)
        errors.append(error)
        prompts.append(None if error else tokens)
    return prompts, errors


def tokenise_prompt(tokenizer: Any, value: Any, tools: Any = None) -> list[int]:
    """Tokens of a prompt, as the server makes them.

    Args:
        tokenizer: The model's.
        value: A text, or a list of messages.
        tools: OpenAI function schemas for messages, or JSON of them.

    Raises:
        BadRowError: It is neither, or is empty.
    """
    if isinstance(value, list):
        if not value:
            raise BadRowError("no messages", "the list is empty")
        turns = tuple(check_messages("messages", value))
        text = render(tokenizer, Conversation(turns, tuple(check_tools(tools))), prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not isinstance(value, str) or not value:
        what = "missing" if value is None else "empty" if value == "" else type(value).__name__
        raise BadRowError("no prompt", f"the value is {what}")
    return list(tokenizer(value)["input_ids"])


def _sampling_parameters(task: GenerationTask, row: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = task.config.sampling
    schema = StructuredOutputsParams(json=task.schema) if task.schema is not None else None
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=list(sampling.stop) or None,
        # Its own for each row: a block that is answered again has the same answers.
        seed=None if sampling.seed is None else sampling.seed + row,
        structured_outputs=schema,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _lora_request(task: GenerationTask) -> Any:
    if task.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    name, folder = task.adapter
    return LoRARequest(lora_name=name, lora_int_id=1, lora_path=str(folder))


def _run(task: GenerationTask, blocks: Sequence[PromptBlock]) -> list[BlockResult]:
    """Answer blocks on the connected cluster."""
    if not blocks:
        return []
    import pyarrow as pa
    import ray

    references = [ray.put(pa.table({"block": [block.number]})) for block in blocks]
    results: list[BlockResult] = []
    gpus = 1 if task.engine.accelerator else 0
    with progress_bar("generating", sum(block.rows for block in blocks)) as bar:
        for result in map_blocks(task, references, actors=task.config.engines, gpus=gpus):
            results.append(result)
            bar.advance(result.rows)
            seconds = result.ended_s - results[0].began_s
            tokens = sum(done.completion_tokens for done in results)
            bar.note(f"{tokens / max(seconds, 1e-6):,.0f} tokens/s")
    return results


def _find_column(config: BatchGeneration) -> str:
    import pyarrow.parquet as pq

    first = data_files(config.input, _SUFFIXES)[0]
    names = pq.read_schema(first).names
    wanted = [config.column] if config.column else ["messages", "prompt"]
    column = next((name for name in wanted if name in names), None)
    if column is None:
        raise UsageError(
            f"{first} has no column {' or '.join(wanted)}.",
            f"It has {', '.join(names)}; generation.column names one.",
            "generation.column",
        )
    if taken := sorted({*names} & {*ANSWER_COLUMNS}):
        raise UsageError(
            f"{first} has columns of the names of the answers': {', '.join(taken)}.",
            "Rename them.",
            "generation.input",
        )
    return column


def _read_schema(path: Path) -> str:
    key = "generation.sampling.json_schema"
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", param=key)
    try:
        return json.dumps(json.loads(path.read_text()))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", param=key) from error


def _claim_folder(task: GenerationTask, ref: str) -> None:
    """Note whose answers the folder holds; refuse another run's."""
    config = task.config
    parts = config.model_dump(mode="json", include={"sampling", "block_rows"})
    identity = fingerprint(ref, task.column, parts, task.schema, hash_files(config.input))
    path = config.output / MANIFEST
    if path.is_file():
        if json.loads(path.read_text()).get("fingerprint") != identity:
            raise UsageError(
                f"{config.output} holds the answers of another model, input or sampling.",
                "Name a new folder, or remove that one.",
                "generation.output",
            )
        return
    if config.output.is_dir() and any(config.output.iterdir()):
        raise UsageError(
            f"{config.output} is not empty.", "Name a new folder.", "generation.output"
        )
    config.output.mkdir(parents=True, exist_ok=True)
    manifest = {"fingerprint": identity, "model": ref, "blocks": len(task.blocks), **parts}
    write_atomic(path, json.dumps(manifest, indent=1))


def _write_quarantine(folder: Path, blocks: Sequence[PromptBlock]) -> dict[str, int]:
    """Write number and reason of every row without an answer; reason to count."""
    import pyarrow.parquet as pq

    counts: Counter[str] = Counter()
    lines = []
    for block in blocks:
        table = pq.read_table(block.answers(folder), columns=["row", "error"])
        for row in table.to_pylist():
            if row["error"] is not None:
                counts[row["error"].partition(":")[0]] += 1
                lines.append(json.dumps({"row": row["row"], "reason": row["error"]}) + "\n")
    path = folder / QUARANTINE
    if lines:
        write_atomic(path, "".join(lines))
    else:
        path.unlink(missing_ok=True)
    return dict(counts.most_common())
