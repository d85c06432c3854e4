"""The recipe of a language model: model, data, training, LoRA, evaluation, output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.names import Alias, Name
from sunloom.config.settings import Settings


class Architecture(Model):
    """A small Llama that is built where no model is named."""

    hidden_size: int = Field(default=192, ge=16)
    """Width of the residual stream."""
    layers: int = Field(default=4, ge=1)
    """Decoder layers."""
    heads: int = Field(default=3, ge=1)
    """Attention heads; the width is divided among them."""
    intermediate_size: int = Field(default=576, ge=16)
    """Width inside the feed-forward blocks."""
    # 256 tokens are the alphabet of bytes; special tokens and merges come on top.
    vocabulary: int = Field(default=2048, ge=300)
    """Tokens of the BPE vocabulary that is trained with it, marks included."""
    rope_theta: float = Field(default=1_000_000.0, gt=1)
    """Base of the rotary position's wavelengths."""
    max_length: int = Field(default=1024, ge=64)
    """Longest prompt with answer, tokens."""
    tokenizer_conversations: int = Field(default=4000, ge=10)
    """Conversations that the tokenizer's merges are learned from."""
    copying_circuit: bool = True
    """Whether training starts from weights that hold a copying circuit: takes two layers and
    three heads."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Architecture:
        # Rotary position embedding turns pairs of dimensions: the width of a head must be even.
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads")
        # The circuit spans two layers. With two heads, the residual stream's part for a token's
        # identity would be narrower than the head that copies it.
        if self.copying_circuit and (self.layers < 2 or self.heads < 3):
            raise ValueError("copying_circuit takes at least 2 layers and 3 heads")
        return self


class ModelConfig(Model):
    """The model that training starts from."""

    renamed: ClassVar[Mapping[str, str]] = {"name": "base_model"}

    base_model: str | None = None
    """``name``, ``name@3`` or ``name@alias`` of the registry, a folder, or a hub id; empty
    builds ``architecture``."""
    revision: str | None = None
    """Revision of a hub model."""
    # Such code runs with all rights of this process.
    trust_remote_code: bool = False
    """Whether code that comes with a model may run."""
    torch_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products in training; ``auto`` asks a probe on each worker."""
    architecture: Architecture = Architecture()
    """The model that is built where ``base_model`` is empty."""


class ConversationFile(Model):
    """Conversations of one's own."""

    path: Path
    """JSON lines, JSON, Parquet or CSV file, or a folder of them."""
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"] = "auto"
    """What a row holds: OpenAI ``messages`` and ``tools``; ``conversations`` of ShareGPT;
    ``instruction``, ``input`` and ``output`` of Alpaca; or ``prompt`` and ``completion``. ``auto``
    tells it by the columns of the first rows."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """How often a pass over the data sees each conversation: 2 is twice, 0.5 every second one."""


class ConversationData(Model):
    """What the model learns from."""

    conversations: str = "generic"
    """Entry point of the group ``sunloom.conversations``; not used where ``train`` names files."""
    train: tuple[ConversationFile, ...] = ()
    """Files to learn from."""
    held_out_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the files' conversations that judge and are not trained on. A conversation is
    chosen by its content, so it stays on its side whatever else is added."""
    max_length: int = Field(default=512, ge=16)
    """Longest conversation, tokens; the rest of a longer one is cut off."""


class Ddp(Model):
    """Every worker holds the whole model."""

    type: Literal["ddp"] = "ddp"
    """Chooses this variant."""


class Fsdp(Model):
    """Parameters, gradients and optimizer state are sharded (FSDP2)."""

    type: Literal["fsdp"] = "fsdp"
    """Chooses this variant."""
    reshard_after_forward: bool = True
    """Whether gathered parameters are freed between forward and backward: less memory, one
    more gather."""


class DeepSpeed(Model):
    """DeepSpeed's ZeRO."""

    type: Literal["deepspeed"] = "deepspeed"
    """Chooses this variant."""
    zero_stage: Literal[2, 3] = 2
    """2 shards gradients and optimizer state, 3 parameters too."""


Distributed = Annotated[Ddp | Fsdp | DeepSpeed, Field(discriminator="type")]


class EarlyStopping(Model):
    """Evaluations during the run, each of which may end it."""

    every: int = Field(default=100, ge=1)
    """Steps between them."""
    held_out: int = Field(default=48, ge=1)
    """Held-out conversations of each, others than those that the trained model is judged on."""


class TrainingConfig(Model):
    """The training run."""

    renamed: ClassVar[Mapping[str, str]] = {
        "steps": "max_steps",
        "warmup_steps": "warmup_ratio",
        "per_device_train_batch_size": "batch_size",
        "dtype": ".model.torch_dtype",
    }

    method: Literal["lora", "full"] = "lora"
    """``lora`` trains an adapter, ``full`` every parameter."""
    # 400 steps of 16 took the retail adapter to 97 % exact turns on the small base model.
    max_steps: int = Field(default=400, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Conversations that a worker has in memory at once. A step learns from ``batch_size`` times
    ``gradient_accumulation_steps`` times ``workers``."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches of each worker whose gradients are added up before a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps that the learning rate rises in; a cosine follows."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    # 0.95 instead of Adam's 0.999: usual for language models, whose gradients change quickly.
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moments."""
    optimizer: Literal["adamw"] = "adamw"
    """Update rule of the weights."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    distributed: Distributed = Fsdp()
    """How the work is divided among the workers."""
    workers: int = Field(default=2, ge=1)
    """Ray Train workers."""
    use_gpu: bool = False
    """Whether each worker gets a GPU."""
    accelerator: str | None = None
    """Ray's accelerator type that each worker needs, such as ``H100``; any node when empty."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """Logical CPUs and threads of each worker."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between checkpoints; the last step always makes one."""
    # Two: the failure that a checkpoint is needed after may have cut the newest one off.
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints are kept."""
    max_failures: int = Field(default=1, ge=0)
    """How often a broken worker group is started again from the last whole checkpoint."""
    trackers: tuple[str, ...] = ("file",)
    """Trackers that get each step: built in (``file``, which the progress bar and the gateway
    read) or from entry points of ``sunloom.trackers``."""
    resume_from: Path | None = None
    """Run folder whose newest whole checkpoint is the start."""
    early_stopping: EarlyStopping | None = None
    """Ends the run once ``min_exact_match`` and ``min_whole`` of ``evaluation`` hold by more than a
    standard error; empty runs all steps. Takes ``distributed.type: ddp``."""

    @property
    def conversations_a_step(self) -> int:
        """Over all workers and accumulated batches."""
        return self.batch_size * self.gradient_accumulation_steps * self.workers

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return round(self.warmup_ratio * self.max_steps)

    @model_validator(mode="after")
    def _every_worker_can_generate(self) -> TrainingConfig:
        # Workers judge their shares on their own; sharded weights would take turns together.
        if self.early_stopping and not isinstance(self.distributed, Ddp):
            raise ValueError("early_stopping takes distributed.type ddp")
        return self


class LoraSettings(Model):
    """A low-rank adapter."""

    # Adapters of a higher rank than serving.llm.max_lora_rank are trained and cannot be served.
    r: int = Field(default=32, ge=1)
    """Rank."""
    alpha: int = Field(default=64, ge=1)
    """Scale of the adapter, divided by the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter."""


class EvaluationConfig(Model):
    """Exact match on held-out conversations."""

    conversations: str | None = None
    """Entry point of the judging conversations; the training's when empty."""
    held_out: int = Field(default=150, ge=1)
    """Held-out conversations."""
    min_exact_match: float | None = Field(default=0.9, ge=0, le=1)
    """Share of exact tool calls from which an adapter may be promoted; null where the held-out
    conversations call no tools."""
    min_whole: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations with every turn right, final answer included, from which an adapter
    may be promoted."""
    max_loss_ratio: float | None = Field(default=1.0, gt=0)
    """Most that an adapter's loss on the held-out conversations may be, as a multiple of its
    base's, to be promoted; null asks for nothing."""
    # A tool call or a sentence is shorter; a model that never ends its turn must be stopped.
    max_new_tokens: int = Field(default=96, ge=8)
    """Longest generated turn, tokens."""


class LlmOutput(Model):
    """Where the result goes."""

    name: Name = "tool-base"
    """Name in the model registry; it keeps the kind and the tenant of its first version."""
    alias: Alias = "production"
    """Alias that is moved to the new version when the gate holds."""
    tenant: str | None = None
    """Tenant that owns the model and alone reads it; empty is the operator's, for all tenants."""
    reuse: bool = True
    """Whether a whole version of the same recipe, seed and base is taken instead of training."""


class LlmRecipe(Settings):
    """Trains an adapter, or a base model where ``training.method`` is ``full``."""

    model: ModelConfig = ModelConfig()
    """Where training starts."""
    data: ConversationData = ConversationData()
    """What is learned from."""
    training: TrainingConfig = TrainingConfig()
    """The run."""
    lora: LoraSettings = LoraSettings()
    """The adapter, where ``training.method`` is ``lora``."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The judge and its bar."""
    output: LlmOutput = LlmOutput()
    """The registered result."""

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is trained, and not every parameter."""
        return self.training.method == "lora"

    @model_validator(mode="after")
    def _an_adapter_has_a_name(self) -> LlmRecipe:
        # By default it would become a version of the base model, and be served in its place.
        names_one = self.model.base_model is not None
        if self.is_adapter and names_one and "name" not in self.output.model_fields_set:
            raise ValueError("output.name is needed for an adapter: a name of its own")
        return self

    @model_validator(mode="after")
    def _early_stopping_has_a_bar(self) -> LlmRecipe:
        bars = self.evaluation
        if self.training.early_stopping and bars.min_exact_match is None and not bars.min_whole:
            raise ValueError(
                "training.early_stopping takes evaluation.min_exact_match or evaluation.min_whole"
            )
        return self
