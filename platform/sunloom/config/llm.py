"""The recipe of a language model: model, data, training, LoRA, evaluation, output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from sunloom.config.llm_judges import LlmJudge, NoRegression, SafetyJudge
from sunloom.config.llm_tune import TuneConfig
from sunloom.config.loading.model import Model
from sunloom.config.names import Alias, Name
from sunloom.config.settings import Settings

_EARLY_STOPPING_STEPS = 100
SPLIT = re.compile(r"(?P<name>[\w.-]*)(?:\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\])?(?<!^)", re.ASCII)
"""A split's name, the rows of it that count, or both."""


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
    adapter: str | None = None
    """Registered adapter on ``base_model`` that is trained on, as ``name``, ``name@3`` or
    ``name@alias``, and that the result is judged beside; empty starts a new one."""
    revision: str | None = None
    """Revision of a hub model."""
    # Such code runs with all rights of this process.
    trust_remote_code: bool = False
    """Whether code that comes with a model may run."""
    torch_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products in training; ``auto`` asks a probe on each worker."""
    architecture: Architecture = Architecture()
    """The model that is built where ``base_model`` is empty."""


ConversationFormat = Literal[
    "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "unpaired",
    "prompt",
]  # fmt: skip


class ConversationFile(Model):
    """Conversations of one's own."""

    path: Path
    """JSON lines, JSON, Parquet or CSV file, or a folder of them; a table of the registry,
    ``name@3`` or ``name@alias``; or a hub id, from the hub or its cache."""
    split: str | None = None
    """Split of a hub's data set, or of a folder that is laid out like one (``train-*.parquet``, a
    folder ``train``, or as its card says); empty is ``train`` of a hub id and of a subset, and
    all files of a folder. ``train[:10%]``, ``train[100:200]`` and, without a name, ``[10%:]`` are
    some of the rows."""
    subset: str | None = None
    """Subset of such a data set, where it has several."""
    revision: str | None = None
    """Revision of a hub id."""
    format: ConversationFormat = "auto"
    """What a row holds: OpenAI ``messages`` and ``tools``; ``conversations`` of ShareGPT;
    ``instruction``, ``input`` and ``output`` of Alpaca; ``prompt`` and ``completion``; or a
    ``text`` without turns, all of which is learned. For ``training.objective``: a ``preference``
    has ``chosen`` and ``rejected``, after a ``prompt`` or as two conversations that begin alike;
    ``unpaired`` feedback has ``prompt``, ``completion`` and ``label``; a ``prompt`` is alone with
    further columns. ``auto`` tells it by the columns of the first rows."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """How often a pass over the data sees each conversation: 2 is twice, 0.5 every second one."""

    @field_validator("split")
    @classmethod
    def _is_a_split(cls, value: str | None) -> str | None:
        if value is not None and not SPLIT.fullmatch(value):
            raise ValueError("is no split such as train, train[:10%], train[100:200] or [10%:]")
        return value


class NearDuplicateRule(Model):
    """What becomes of conversations that are alike but for a few words.

    System messages and tools, case and punctuation count for nothing.
    """

    action: Literal["report", "drop"] = "report"
    """``report`` lets ``sunloom llm prepare`` count and list them; ``drop`` leaves out all but the
    first."""
    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Runs of three words that both have, as a share of those that either has (Jaccard index), from
    which two conversations are alike."""


class ContaminationRule(Model):
    """What becomes of conversations to learn from that hold what the model is judged by.

    That is the held-out conversations, ``evaluation.custom_tasks`` and ``evaluation.benchmarks``,
    of which ``report`` takes those with copies in ``evaluation.benchmark_data``.
    """

    action: Literal["report", "drop"] = "report"
    """``report`` lets ``sunloom llm prepare`` count and list them; ``drop`` leaves them out."""
    ngram: int = Field(default=13, ge=3, le=50)
    """Words of a run that is looked for; one that more than ten of the judging texts have is a
    phrase and does not count."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of a judging text's runs from which a conversation that has them is contaminated. One
    that is alike by ``near_duplicates`` is so too."""


class ConversationData(Model):
    """What the model learns from."""

    conversations: str = "generic"
    """Entry point of the group ``sunloom.conversations``; not used where ``train`` names files."""
    train: tuple[ConversationFile, ...] = ()
    """Files to learn from."""
    held_out_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the files' conversations that judge and are not trained on. A conversation is
    chosen by its content, so it stays on its side whatever else is added."""
    near_duplicates: NearDuplicateRule | None = NearDuplicateRule()
    """Conversations of the files that are alike; null looks for none."""
    contamination: ContaminationRule | None = ContaminationRule()
    """Conversations of the files that judge the model, too; null looks for none."""
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


class CosineSchedule(Model):
    """Half a cosine from the peak down."""

    type: Literal["cosine"] = "cosine"
    """Chooses this variant."""
    min_ratio: float = Field(default=0.01, ge=0, le=1)
    """The last learning rate, as a share of the peak."""


class LinearSchedule(Model):
    """A straight line from the peak down."""

    type: Literal["linear"] = "linear"
    """Chooses this variant."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """The last learning rate, as a share of the peak."""


class ConstantSchedule(Model):
    """The peak to the end."""

    type: Literal["constant"] = "constant"
    """Chooses this variant."""


class WsdSchedule(Model):
    """Warm-up, stable, decay: the peak, and a straight line down at the end."""

    type: Literal["wsd"] = "wsd"
    """Chooses this variant."""
    decay_ratio: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps that the decay takes."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """The last learning rate, as a share of the peak."""


Schedule = Annotated[
    CosineSchedule | LinearSchedule | ConstantSchedule | WsdSchedule, Field(discriminator="type")
]


class AdamW(Model):
    """Adam with decoupled weight decay; two moments a parameter."""

    type: Literal["adamw"] = "adamw"
    """Chooses this variant."""


class AdamW8Bit(Model):
    """AdamW with moments of 8 bits, by bitsandbytes.

    Tensors of less than 4,096 values keep 32. Takes ``distributed.type: ddp``.
    """

    type: Literal["adamw_8bit"] = "adamw_8bit"
    """Chooses this variant."""


class Lion(Model):
    """The sign of a mix of gradient and moment.

    Takes a learning rate some 5 times lower than AdamW's.
    """

    type: Literal["lion"] = "lion"
    """Chooses this variant."""


class Muon(Model):
    """Orthogonal updates of the matrices inside the layers, scaled to AdamW's size.

    Embeddings, heads and vectors have AdamW. Not with DeepSpeed, which flattens matrices.
    """

    type: Literal["muon"] = "muon"
    """Chooses this variant."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of the matrices' gradients."""


class Adafactor(Model):
    """A row and a column of second moments for each matrix: least memory.

    Takes ``distributed.type: ddp``.
    """

    type: Literal["adafactor"] = "adafactor"
    """Chooses this variant."""


class PluginOptimizer(Model):
    """An optimizer of one's own."""

    type: Literal["plugin"] = "plugin"
    """Chooses this variant."""
    name: str
    """Entry point of the group ``sunloom.optimizers``: a callable that takes torch's parameter
    groups and ``options`` and returns a ``torch.optim.Optimizer``."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Handed over as keyword arguments."""


Optimizer = Annotated[
    AdamW | AdamW8Bit | Lion | Muon | Adafactor | PluginOptimizer, Field(discriminator="type")
]


class WeightDecayGroup(Model):
    """Parameters with a weight decay of their own."""

    match: str
    """Regular expression that is looked for in a parameter's name, such as ``norm|bias``."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Theirs."""

    @field_validator("match")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value


class EarlyStopping(Model):
    """Ends the run at one of the evaluations that ``evaluation.eval_steps`` asks for."""

    renamed: ClassVar[Mapping[str, str]] = {
        "every": ".evaluation.eval_steps",
        "held_out": ".evaluation.eval_sample",
    }

    metric: Literal["exact_match", "loss"] = "exact_match"
    """``exact_match`` ends the run once ``min_exact_match`` and ``min_whole`` of ``evaluation``
    hold by more than a standard error; takes ``distributed.type: ddp``. ``loss`` ends it once the
    evaluation loss has not fallen for ``patience`` evaluations, and keeps the weights of the
    lowest."""
    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a lower loss that end the run."""
    min_delta: float = Field(default=0.0, ge=0)
    """What a loss must be lower by to count."""


class Sft(Model):
    """Next token of the answers."""

    type: Literal["sft"] = "sft"
    """Chooses this variant."""


class Dpo(Model):
    """Direct preference optimization: pairs, against what training starts from."""

    type: Literal["dpo"] = "dpo"
    """Chooses this variant."""
    beta: float = Field(default=0.1, gt=0)
    """How closely the model stays with its start: a reward is this times the log-ratio."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round (robust DPO)."""


class Ipo(Model):
    """Identity preference optimization: a fixed margin a token, which sure pairs do not exceed."""

    type: Literal["ipo"] = "ipo"
    """Chooses this variant."""
    beta: float = Field(default=0.1, gt=0)
    """The margin is half its inverse (the paper's tau)."""


class Kto(Model):
    """Kahneman-Tversky optimization: completions with a label, no pairs."""

    type: Literal["kto"] = "kto"
    """Chooses this variant."""
    beta: float = Field(default=0.1, gt=0)
    """How closely the model stays with its start."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the desirable completions' losses; the rarer kind takes the higher one."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the undesirable completions' losses."""


class Orpo(Model):
    """Odds-ratio preference optimization: the chosen text is learned, too, and no reference."""

    type: Literal["orpo"] = "orpo"
    """Chooses this variant."""
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds ratio beside the loss on the chosen text."""


class Reward(Model):
    """A reward model: a score beside the language model, higher for the chosen of each pair."""

    type: Literal["reward"] = "reward"
    """Chooses this variant."""
    center_rewards_coefficient: float | None = Field(default=None, gt=0)
    """Weight of the squared sum of a pair's rewards, which keeps them around zero."""


class ExactText(Model):
    """1 where the text is the expected one, without the blanks around it."""

    type: Literal["exact_match"] = "exact_match"
    """Chooses this variant."""
    ignore_case: bool = False
    """Whether case counts for nothing."""


class F1(Model):
    """Harmonic mean of precision and recall of the words, as SQuAD counts them."""

    type: Literal["f1"] = "f1"
    """Chooses this variant."""


class Rouge(Model):
    """ROUGE F-measure, by the package rouge-score."""

    type: Literal["rouge"] = "rouge"
    """Chooses this variant."""
    variant: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    """Words, pairs of words, or longest common subsequences."""


class JsonSchema(Model):
    """1 where the text is JSON that a schema allows."""

    type: Literal["json_schema"] = "json_schema"
    """Chooses this variant."""
    # pydantic's models have a method of the name schema.
    path: Path
    """File with the JSON schema."""


class ToolCallMatch(Model):
    """1 where the tools called and their arguments are the expected ones."""

    type: Literal["tool_call"] = "tool_call"
    """Chooses this variant."""


class Regex(Model):
    """1 where an expression is found in the text."""

    type: Literal["regex"] = "regex"
    """Chooses this variant."""
    pattern: str
    """Python's regular expression."""


class PluginMetric(Model):
    """A metric of one's own."""

    type: Literal["plugin"] = "plugin"
    """Chooses this variant."""
    name: str
    """Entry point of the group ``sunloom.metrics``: a callable that takes the expected text and
    the generated one and returns a score from 0 to 1."""


TaskMetric = Annotated[
    ExactText | F1 | Rouge | JsonSchema | ToolCallMatch | Regex | PluginMetric,
    Field(discriminator="type"),
]


class RewardTerm(Model):
    """One of the rewards whose weighted sum a completion gets."""

    name: str | None = None
    """Entry point of the group ``sunloom.rewards``: a callable that takes the completion's text,
    and by name the ``prompt`` (its messages) and the row's other columns, and returns a number."""
    metric: TaskMetric | None = None
    """In place of ``name``: what compares the completion with a column of its row."""
    column: str = "answer"
    """The column with the expected text, or with the expected tool calls: objects with ``name`` and
    ``arguments``. ``json_schema`` and ``regex`` read none."""
    weight: float = 1.0
    """Weight in the sum; a negative one is a penalty."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> RewardTerm:
        if (self.name is None) == (self.metric is None):
            raise ValueError("a reward has a name or a metric, and not both")
        return self


class Grpo(Model):
    """Group relative policy optimization: completions that vLLM draws, and rewards for them."""

    type: Literal["grpo"] = "grpo"
    """Chooses this variant."""
    rewards: tuple[RewardTerm, ...] = Field(min_length=1)
    """What completions are rewarded for."""
    group_size: int = Field(default=8, ge=2)
    """Completions of a prompt, whose rewards are compared with one another. ``batch_size`` counts
    completions: a step has as many groups as fit."""
    max_completion_length: int = Field(default=128, ge=1)
    """Longest completion, tokens; ``data.max_length`` holds it with its prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling, and of the probabilities that are trained."""
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """What the sum over tokens is divided by: ``dapo`` by the tokens of the step, ``grpo`` by those
    of each completion, ``dr_grpo`` by the longest that a completion may be."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation the advantages are divided by."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 a token's probability ratio counts, and above where ``epsilon_high`` is
    empty. The ratio is to the weights before the first pass over the same completions."""
    epsilon_high: float | None = Field(default=None, gt=0)
    """How far above 1 it counts."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the divergence (k3) from the model that training starts from."""
    num_iterations: int = Field(default=1, ge=1)
    """Steps that learn from the same completions; divides ``max_steps`` and
    ``checkpoint_every``."""
    importance_sampling_cap: float = Field(default=3.0, gt=0)
    """Most that a token counts for being likelier in training than in the engine that drew it
    (truncated importance sampling)."""
    policy_lag: Literal[0, 1] = 0
    """1 draws the completions of the next step while this one trains: by weights one step older,
    which the importance sampling corrects."""
    max_mismatch: float | None = Field(default=None, gt=0)
    """Most that the engine's log-probabilities of the next token may differ from the trainer's
    after each exchange of weights, on fixed prompts, or the run stops. Empty: 0.001 in float32, 0.3
    in bfloat16."""
    engines: int = Field(default=1, ge=1)
    """vLLM engines, which share the prompts of a step; with ``training.use_gpu`` each has a GPU."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """Key-value cache of each engine on CPU, GiB."""
    engine: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, passed on as they are."""


TrainingObjective = Annotated[
    Sft | Dpo | Ipo | Kto | Orpo | Reward | Grpo, Field(discriminator="type")
]


class TrainingConfig(Model):
    """The training run."""

    renamed: ClassVar[Mapping[str, str]] = {
        "steps": "max_steps",
        "warmup_steps": "warmup_ratio",
        "per_device_train_batch_size": "batch_size",
        "dtype": ".model.torch_dtype",
    }

    method: Literal["lora", "qlora", "full"] = "lora"
    """``lora`` trains an adapter, ``qlora`` one on a base whose layers are held in 4 bits (NF4),
    ``full`` every parameter."""
    objective: TrainingObjective = Sft()
    """What a step minimises. The reference of ``dpo``, ``ipo`` and ``kto`` is the model that
    training starts from, adapter included: its log-probabilities are computed once, before the
    first step. ``reward`` makes a model that scores texts and writes none. ``grpo`` learns from
    completions that the model draws in training, and their rewards."""
    # 400 steps of 16 took the retail adapter to 97 % exact turns on the small base model.
    max_steps: int = Field(default=400, ge=1)
    """Optimizer steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the files of ``data.train``, in place of ``max_steps``."""
    batch_size: int = Field(default=8, ge=1)
    """Conversations that a worker has in memory at once. A step learns from ``batch_size`` times
    ``gradient_accumulation_steps`` times ``workers``."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches of each worker whose gradients are added up before a step."""
    pass_tokens: int | None = Field(default=None, ge=16)
    """Most tokens, padding included, of one pass through the model: a batch that has more is
    computed in several, which changes no loss. Empty: 1,024 on CPU, where more are slower and take
    more memory, and any number on an accelerator."""
    packing: bool = False
    """Whether the conversations of a pass lie end to end, without padding. None sees another."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps that the learning rate rises in; ``schedule`` follows."""
    schedule: Schedule = CosineSchedule()
    """The learning rate after the warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Share of a weight, times the learning rate, that each step takes off."""
    weight_decay_groups: tuple[WeightDecayGroup, ...] = ()
    """Parameters with another weight decay; the first that matches a name counts."""
    # 0.95 instead of Adam's 0.999: usual for language models, whose gradients change quickly.
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the moments of AdamW and Lion."""
    optimizer: Optimizer = AdamW()
    """Update rule of the weights."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that all tokens of the vocabulary divide among them; for
    ``objective.type: sft``."""
    neftune_alpha: float | None = Field(default=None, gt=0)
    """Size of the uniform noise on the embeddings in training (NEFTune), 5 to 15 where it is used;
    empty adds none."""
    distributed: Distributed = Fsdp()
    """How the work is divided among the workers."""
    workers: int = Field(default=2, ge=1)
    """Ray Train workers."""
    min_workers: int | None = Field(default=None, ge=1)
    """Least workers to train with while the cluster has no room for all; a step learns from the
    same conversations, whoever is there. Each change starts from the newest checkpoint, and a lost
    worker is one of ``max_failures``. Empty waits for all. Takes ``distributed.type`` ddp or
    fsdp."""
    resize_interval_s: float = Field(default=60.0, gt=0)
    """Seconds between looks for room for more workers, where ``min_workers`` is set."""
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
    read; ``mlflow`` and ``wandb`` as ``telemetry.tracking`` says; ``tensorboard``, in the run's
    folder) or from entry points of ``sunloom.trackers``."""
    peak_flops: float | None = Field(default=None, gt=0)
    """Operations a second of a worker's device in the number format used, of which the progress
    shows the share (MFU); empty is what the maker of a known GPU says, and else there is no MFU."""
    resume_from: Path | None = None
    """Run folder whose newest whole checkpoint is the start."""
    early_stopping: EarlyStopping | None = None
    """What ends the run sooner; empty runs all steps."""

    @property
    def conversations_a_step(self) -> int:
        """Over all workers and accumulated batches."""
        return self.batch_size * self.gradient_accumulation_steps * self.workers

    @property
    def rows_a_step(self) -> int:
        """Of the data: conversations, or prompts of which each has a group of completions."""
        if isinstance(self.objective, Grpo):
            return self.conversations_a_step // self.objective.group_size
        return self.conversations_a_step

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return round(self.warmup_ratio * self.max_steps)

    @model_validator(mode="after")
    def _every_worker_can_generate(self) -> TrainingConfig:
        stop = self.early_stopping
        # Workers judge their shares on their own; sharded weights would take turns together.
        if stop and stop.metric == "exact_match" and not isinstance(self.distributed, Ddp):
            raise ValueError("early_stopping by exact_match takes distributed.type ddp")
        return self

    @model_validator(mode="after")
    def _at_most_all_workers(self) -> TrainingConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError("min_workers must not be more than workers")
        return self

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> TrainingConfig:
        if self.epochs is not None and "max_steps" in self.model_fields_set:
            raise ValueError("max_steps and epochs exclude each other: leave one out")
        return self

    @model_validator(mode="after")
    def _the_objective_can_do_it(self) -> TrainingConfig:
        stop = self.early_stopping
        if not isinstance(self.objective, Sft):
            if self.label_smoothing:
                raise ValueError("training.label_smoothing takes objective.type sft")
            if self.packing:
                raise ValueError("training.packing takes objective.type sft")
            if stop and stop.metric == "exact_match":
                raise ValueError("early_stopping by exact_match takes objective.type sft")
        return self

    @model_validator(mode="after")
    def _the_completions_can_be_drawn(self) -> TrainingConfig:
        kind = self.objective
        if not isinstance(kind, Grpo):
            return self
        if self.method == "qlora":
            # The engine holds the base as it is: its probabilities would be another model's.
            raise ValueError("objective.type grpo takes method lora or full")
        if not isinstance(self.distributed, Ddp):
            raise ValueError("objective.type grpo takes distributed.type ddp")
        if self.neftune_alpha is not None or self.early_stopping is not None:
            raise ValueError("objective.type grpo takes no neftune_alpha and no early_stopping")
        if self.conversations_a_step % kind.group_size:
            raise ValueError(
                "objective.group_size must divide batch_size times gradient_accumulation_steps "
                f"times workers, which is {self.conversations_a_step}"
            )
        if self.max_steps % kind.num_iterations or self.checkpoint_every % kind.num_iterations:
            raise ValueError("objective.num_iterations must divide max_steps and checkpoint_every")
        return self

    @model_validator(mode="after")
    def _the_parallelism_can_do_it(self) -> TrainingConfig:
        optimizer, kind = self.optimizer, self.distributed
        if isinstance(optimizer, Muon) and isinstance(kind, DeepSpeed):
            raise ValueError("optimizer.type muon takes distributed.type ddp or fsdp")
        # Neither has operations for sharded tensors.
        if isinstance(optimizer, AdamW8Bit | Adafactor) and not isinstance(kind, Ddp):
            raise ValueError(f"optimizer.type {optimizer.type} takes distributed.type ddp")
        if self.method == "qlora" and isinstance(self.objective, Reward):
            raise ValueError("objective.type reward takes method lora or full")
        if self.min_workers is not None and isinstance(kind, DeepSpeed):
            # Its checkpoints fit the number of workers that wrote them.
            raise ValueError("min_workers takes distributed.type ddp or fsdp")
        if self.method == "qlora" and isinstance(kind, DeepSpeed) and kind.zero_stage == 3:
            raise ValueError("method qlora takes distributed.type ddp, fsdp, or zero_stage 2")
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
    use_rslora: bool = False
    """Whether ``alpha`` is divided by the root of the rank (rsLoRA): steadier at high ranks."""
    loraplus_ratio: float | None = Field(default=None, gt=0)
    """How many times the learning rate the second matrices (B) have (LoRA+), 4 to 16 where it is
    used; empty is once."""
    use_dora: bool = False
    """Whether the length of each column is learned apart from its direction (DoRA): nearer to full
    fine-tuning at low ranks, and slower."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of the names of modules that are trained whole and stored with the adapter, such as
    ``embed_tokens``, ``lm_head`` or ``norm``. vLLM serves neither these nor DoRA on a base:
    ``sunloom llm merge`` makes a model that it serves."""

    @field_validator("modules_to_save")
    @classmethod
    def _in_one_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({*value}))


class CustomTask(Model):
    """Conversations of one's own whose last answer is compared with what the model writes."""

    name: Name
    """Name of the score."""
    path: Path
    """JSON lines, JSON, Parquet or CSV file, or a folder of them."""
    format: ConversationFormat = "auto"
    """What a row holds, as in ``data.train``."""
    metric: TaskMetric = ExactText()
    """How the answers are compared."""
    limit: int | None = Field(default=None, ge=1)
    """How many of the conversations are judged, drawn by ``seed``; empty judges all."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Mean score from which a model may be promoted; empty asks for nothing."""


class EvaluationConfig(Model):
    """How the result is judged, and what it must reach to be promoted."""

    conversations: str | None = None
    """Entry point of the judging conversations; the training's when empty."""
    held_out: int = Field(default=150, ge=1)
    """Held-out conversations."""
    min_exact_match: float | None = Field(default=0.9, ge=0, le=1)
    """Share of exact tool calls from which a model may be promoted; null where the held-out
    conversations call no tools. One that is trained from random weights is judged only where this,
    ``min_whole``, ``custom_tasks``, ``benchmarks``, ``safety`` or ``llm_judge`` is named, or
    preferences are learned."""
    min_whole: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations with every turn right, final answer included, from which a model may
    be promoted."""
    max_loss_ratio: float | None = Field(default=1.0, gt=0)
    """Most that a model's loss on the held-out conversations may be, as a multiple of that of what
    it was trained from, to be promoted; null asks for nothing."""
    min_preference_accuracy: float | None = Field(default=0.6, ge=0, le=1)
    """Share of the held-out preference pairs, less its standard error, that a model of another
    ``training.objective`` than ``sft`` must order rightly to be promoted; null asks for nothing. A
    tie counts half, so the model that training starts from has 0.5. Such a model has no exact
    match, and its ``max_loss_ratio`` compares the objective's loss with the start's."""
    # A tool call or a sentence is shorter; a model that never ends its turn must be stopped.
    max_new_tokens: int = Field(default=96, ge=8)
    """Longest generated turn, tokens."""
    benchmarks: tuple[str, ...] = ()
    """Tasks, groups and tags of the package lm-eval, such as ``hellaswag``, ``arc``, ``mmlu`` and
    ``gsm8k``, or paths of task files in its format."""
    benchmark_data: Path | None = None
    """Folder with copies of the benchmarks' data sets, each at its hub id
    (``FOLDER/Rowan/hellaswag``); one that it lacks comes from the hub or its cache."""
    benchmark_limit: int | None = Field(default=None, ge=1)
    """Examples of each benchmark task, the first ones; empty takes all."""
    benchmark_batch_size: int = Field(default=8, ge=1)
    """Texts that a benchmark runs at once."""
    min_reward: float | None = None
    """Mean reward on the held-out prompts, less its standard error, from which a model of
    ``training.objective.type: grpo`` may be promoted; null asks for nothing."""
    min_reward_gain: float | None = 0.0
    """What this mean must have risen by more than since the start of training, less the standard
    error of the rise on the same prompts, to be promoted; null asks for nothing."""
    max_benchmark_drop: float | None = Field(default=0.02, ge=0, le=1)
    """Most that a model's score in a benchmark may be below that of what it was trained from,
    beyond chance (95 %, on the same examples), to be promoted; null asks for nothing."""
    custom_tasks: tuple[CustomTask, ...] = ()
    """Files of one's own to judge on."""
    safety: tuple[SafetyJudge, ...] = ()
    """Judges of refusals, leaks, followed injections and toxic answers."""
    llm_judge: LlmJudge | None = None
    """A language model that judges the answers."""
    no_regression: tuple[NoRegression, ...] = ()
    """Figures of the report in which a model must not fall behind to be promoted."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Steps between evaluations during training, of which each step's record holds the loss; empty
    evaluates at the end, and for ``training.early_stopping`` every 100 steps."""
    eval_sample: int = Field(default=48, ge=1)
    """Held-out conversations of each evaluation during training, others than those that judge the
    result."""


class QuantizationConfig(Model):
    """A copy of a model in fewer bits."""

    model: str | None = None
    """``name``, ``name@3`` or ``name@alias`` of the registered model; ``output.name`` if empty."""
    to: Literal["int8", "int4"] = "int8"
    """``int8`` holds weights and computes in 8 bits, with half to a quarter of the bytes; ``int4``
    holds the weights in 4 bits and is computed in bfloat16."""
    group_size: int = Field(default=32, ge=16)
    """Weights that share a scale in ``int4``; it divides the inputs of every layer."""
    name: Name | None = None
    """Of the quantised model; the model's with ``-int8`` or ``-int4`` if empty."""
    max_score_drop: float = Field(default=0.02, ge=0, le=1)
    """Most that exact match or the score of a task may be below the original's, beyond chance
    (95 %, on the same turns), to be promoted."""
    max_perplexity_ratio: float = Field(default=1.1, ge=1)
    """Most that the perplexity may be, as a multiple of the original's, to be promoted."""


class LlmOutput(Model):
    """Where the result goes."""

    name: Name = "tool-base"
    """Name in the model registry; it keeps the kind and the tenant of its first version. Where
    ``model.base_model`` is named and this is not, it is the base's with ``-lora`` or, where every
    parameter is trained, ``-tuned``."""
    alias: Alias = "production"
    """Alias that is moved to the new version when the gate holds."""
    tenant: str | None = None
    """Tenant that owns the model and alone reads it; empty is the operator's, for all tenants."""
    reuse: bool = True
    """Whether a whole version of the same recipe, data, seed and base is taken instead of training,
    and else an unfinished run of the same is gone on from."""


class LlmRecipe(Settings):
    """Trains an adapter, or a base model where ``training.method`` is ``full``."""

    model: ModelConfig = ModelConfig()
    """Where training starts."""
    data: ConversationData = ConversationData()
    """What is learned from."""
    training: TrainingConfig = TrainingConfig()
    """The run."""
    lora: LoraSettings = LoraSettings()
    """The adapter, where ``training.method`` is ``lora`` or ``qlora``."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The judge and its bar."""
    output: LlmOutput = LlmOutput()
    """The registered result."""
    quantization: QuantizationConfig = QuantizationConfig()
    """What ``sunloom llm quantize`` makes of it."""
    tune: TuneConfig | None = None
    """The search of ``sunloom llm tune``; not used otherwise."""

    def with_values(self, values: Mapping[str, Any]) -> LlmRecipe:
        """The recipe with other values at dotted keys, and without its search.

        Raises:
            ValueError: The recipe cannot have them; says which key is wrong.
        """
        tree = self.model_dump(exclude_unset=True, exclude={"tune"})
        for key, value in values.items():
            *path, name = key.split(".")
            place: dict[str, Any] = tree
            section: Any = self
            for part in path:
                section = getattr(section, part, None)
                # Without its type, a variant could not be told.
                kind = {"type": section.type} if hasattr(section, "type") else {}
                place = place.setdefault(part, kind)
            place[name] = value
        try:
            return LlmRecipe.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or ", ".join(values)
            raise ValueError(f"{where}: {first['msg']}") from error

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is trained, and not every parameter."""
        return self.training.method != "full"

    @property
    def is_judged(self) -> bool:
        """Whether the result is judged beside what it was trained from, and gated.

        Random weights are no model to fall behind of: from these, where the recipe names a bar.
        """
        asked = self.evaluation
        named = [key for key in ("min_exact_match", "min_whole") if key in asked.model_fields_set]
        return (
            self.model.base_model is not None
            or self.learns_preferences
            or self.learns_rewards
            or any(getattr(asked, key) for key in named)
            or bool(asked.custom_tasks or asked.benchmarks or asked.safety or asked.llm_judge)
        )

    @property
    def learns_preferences(self) -> bool:
        """Whether feedback on completions is learned, and not the next token."""
        return not isinstance(self.training.objective, Sft | Grpo)

    @property
    def learns_rewards(self) -> bool:
        """Whether completions are drawn and rewarded in training."""
        return isinstance(self.training.objective, Grpo)

    @property
    def longest_row(self) -> int:
        """Most tokens of a row of the data: a prompt leaves room for its completions."""
        kind = self.training.objective
        drawn = kind.max_completion_length if isinstance(kind, Grpo) else 0
        return self.data.max_length - drawn

    @property
    def is_reward_model(self) -> bool:
        """Whether the result scores texts and writes none."""
        return isinstance(self.training.objective, Reward)

    @property
    def eval_steps(self) -> int | None:
        """Steps between evaluations during training; None where there are none."""
        if self.evaluation.eval_steps is None and self.training.early_stopping:
            return _EARLY_STOPPING_STEPS
        return self.evaluation.eval_steps

    @model_validator(mode="before")
    @classmethod
    def _name_after_the_base(cls, values: Any) -> Any:
        # With the default name, the result would become a version of the base and be served in its
        # place.
        if not isinstance(values, Mapping):
            return values
        model, training, output = (
            values.get(section, {}) for section in ("model", "training", "output")
        )
        if not all(isinstance(part, Mapping) for part in (model, training, output)):
            return values
        base = model.get("base_model")
        if not isinstance(base, str) or "name" in output:
            return values
        suffix = "tuned" if training.get("method") == "full" else "lora"
        return {**values, "output": {**output, "name": _derive_name(base, suffix)}}

    @model_validator(mode="after")
    def _trials_are_recipes(self) -> LlmRecipe:
        if self.tune is None:
            return self
        for key, wanted in self.tune.space.items():
            for value in wanted.extremes:
                try:
                    self.with_values({key: value})
                except ValueError as error:
                    raise ValueError(f"tune.space has {key} {value!r}: {error}") from error
        if self.eval_steps is None and (self.tune.metric == "eval_loss" or self.tune.asha):
            raise ValueError(
                "tune takes evaluation.eval_steps: trials are compared by the evaluation loss (or "
                "tune.asha null and a figure of the gate as tune.metric)"
            )
        return self

    @model_validator(mode="after")
    def _early_stopping_has_a_bar(self) -> LlmRecipe:
        bars, stop = self.evaluation, self.training.early_stopping
        by_score = stop is not None and stop.metric == "exact_match"
        if by_score and bars.min_exact_match is None and not bars.min_whole:
            raise ValueError(
                "training.early_stopping takes evaluation.min_exact_match or evaluation.min_whole"
            )
        return self

    @model_validator(mode="after")
    def _epochs_have_files(self) -> LlmRecipe:
        # A plugin makes as many conversations as it is asked for: it has no pass.
        if self.training.epochs is not None and not self.data.train:
            raise ValueError("training.epochs takes files in data.train; use training.max_steps")
        return self

    @model_validator(mode="after")
    def _feedback_comes_from_files(self) -> LlmRecipe:
        kind = self.training.objective.type
        if kind != "sft" and (not self.data.train or self.evaluation.conversations is not None):
            raise ValueError(
                f"training.objective.type {kind} takes files in data.train, and no "
                "evaluation.conversations"
            )
        return self

    @model_validator(mode="after")
    def _the_drawing_model_is_the_one_that_is_trained(self) -> LlmRecipe:
        kind = self.training.objective
        if not isinstance(kind, Grpo):
            return self
        if self.evaluation.eval_steps is not None or self.lora.dropout:
            raise ValueError(
                "training.objective.type grpo takes no evaluation.eval_steps and no lora.dropout"
            )
        if kind.max_completion_length >= self.data.max_length:
            raise ValueError(
                "data.max_length must hold a prompt beside training.objective.max_completion_length"
            )
        return self

    @model_validator(mode="after")
    def _a_reward_model_writes_nothing(self) -> LlmRecipe:
        asked = self.evaluation
        judged = asked.benchmarks or asked.custom_tasks or asked.safety or asked.llm_judge
        if self.is_reward_model and (judged or self.model.base_model is None or self.model.adapter):
            raise ValueError(
                "training.objective.type reward takes model.base_model, and no model.adapter, "
                "evaluation.benchmarks, custom_tasks, safety or llm_judge"
            )
        return self

    @model_validator(mode="after")
    def _an_adapter_goes_on_a_base(self) -> LlmRecipe:
        if self.model.adapter is not None and (
            self.model.base_model is None or not self.is_adapter
        ):
            raise ValueError(
                "model.adapter takes model.base_model and training.method lora or qlora"
            )
        return self

    @model_validator(mode="after")
    def _scores_have_names_of_their_own(self) -> LlmRecipe:
        names = [task.name for task in self.evaluation.custom_tasks]
        if len({*names}) < len(names):
            raise ValueError("evaluation.custom_tasks: two tasks have the same name")
        names = [judge.name for judge in self.evaluation.safety]
        if len({*names}) < len(names):
            raise ValueError("evaluation.safety: two judges have the same name")
        return self


def _derive_name(base: str, suffix: str) -> str:
    """``meta-llama/Llama-2-7b-hf`` becomes ``llama-2-7b-hf-lora``."""
    last = base.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    return "-".join([*re.findall("[a-z0-9]+", last), suffix])
