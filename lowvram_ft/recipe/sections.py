"""The sections of a recipe: frozen tables that refuse unknown keys and wrong types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lowvram_ft.recipe.preference import PreferenceSection
from lowvram_ft.recipe.section import Names, Section

Source = Literal["samples", "kodcode", "testgeneval", "coderm", "failure_traces", "repository", "winners"]
Filter = Literal["constraints", "assertions", "contamination"]
Duplicates = Literal["drop", "group", "keep"]
Quant = Literal["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S"]
Allow = Literal[
    "checkpointing", "offload_embedding", "offload_head", "offload_optimizer", "offload_activations", "offload_layers",
    "smaller_batch", "chunked_loss", "optimizer_8bit", "nf4_embedding", "nf4_head", "shorter", "smaller_rank",
    "smaller_model",
]  # fmt: skip
Reporter = Literal[
    "tensorboard", "wandb", "mlflow", "trackio", "swanlab", "clearml", "comet_ml", "dvclive", "azure_ml", "dagshub",
    "neptune",
]  # fmt: skip
Method = Literal["sft", "rft", "dpo"]
LossType = Literal["sigmoid", "ipo", "sigmoid_norm"]
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelSection(Section):
    """The base model, and the adapter that training starts from."""

    base: str = Field(default="smollm2-135m", min_length=1)
    """Hub id, folder in the hub's layout, or ``smollm2-135m``."""
    fallbacks: Names = ()
    """Smaller base models, largest first, that the plan may propose."""
    adapter: str | None = None
    """Folder of a PEFT adapter to continue."""


class DataSection(Section):
    """Where the rows come from, and which of them are used."""

    source: Source = "samples"
    subset: Literal["functions", "modules", "traces"] | None = None
    """A part of the rows that ship with the kit (``source = "samples"`` only)."""
    path: str | None = None
    """A JSONL file; where it is set, the hub is not asked."""
    hub_id: str | None = None
    """Data set on the hub; by default the source's own."""
    split: str = "train"
    max_read: int | None = Field(default=None, gt=0)
    """Read so many objects of the source at the most."""
    max_rows: int | None = Field(default=None, gt=0)
    """Use so many rows at the most: of many kinds of code, drawn with ``seed``, not the first ones."""
    filters: Annotated[tuple[Filter, ...], Field(strict=False)] | None = None
    """Which rows teach: ``constraints`` (pytest only, nothing outside the process), ``assertions``, ``contamination``
    (no evaluation task). By default all of them; for winners, which were judged by running them, ``contamination``
    alone; for the rows that ship with the kit, which are checked otherwise, none."""
    min_assertions: int = Field(default=1, gt=0)
    """Assertions that a test file has to hold, with the filter ``assertions``."""
    duplicates: Duplicates | None = None
    """What happens to a row whose code is that of an earlier one, names and layout apart, or nearly so: ``drop`` it,
    ``group`` it with the other on one side of the split, ``keep``. By default ``drop``; ``group`` for failure traces
    and winners, ``keep`` for the rows that ship with the kit."""
    verify: bool = False
    """Run every row before it is used: its test passes, in another order and with another hash seed as well."""
    min_mutation_score: float = Field(default=0.0, ge=0, le=1)
    """Least share of its mutants that a row has to kill; only with ``verify``."""
    eval_share: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the groups that is kept back for the validation loss."""
    test_share: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the groups that is kept out of training and validation altogether."""
    seed: int = Field(default=0, ge=0)
    broken_lines: Literal["fatal", "skip"] = "skip"
    """What a line that is not a JSON object does. It is reported either way."""
    too_long: Literal["drop", "trim", "fatal"] = "drop"
    """What a row with more than ``train.max_length`` tokens does. Its text is never cut: ``trim`` makes rows of
    the definitions that are tested, with what they call, and the tests that reach them."""

    @property
    def active_filters(self) -> tuple[Filter, ...]:
        """Those that are set, or the source's own."""
        if self.filters is not None:
            return self.filters
        own: dict[str, tuple[Filter, ...]] = {"samples": (), "winners": ("contamination",)}
        return own.get(self.source, ("constraints", "assertions", "contamination"))

    @property
    def duplicates_policy(self) -> Duplicates:
        """What is set, or the source's own."""
        own: dict[str, Duplicates] = {"samples": "keep", "failure_traces": "group", "winners": "group"}
        return self.duplicates or own.get(self.source, "drop")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.subset is not None and self.source != "samples":
            raise ValueError(f'subset: only with source = "samples" (source is "{self.source}"); remove it')
        if self.min_mutation_score and not self.verify:
            raise ValueError("min_mutation_score: needs rows that are run; set verify = true")
        if self.source == "testgeneval" and self.split != "train":
            raise ValueError(
                f'split: "{self.split}" of testgeneval is an evaluation split and must never reach training; '
                'use split = "train"'
            )
        return self


class QuantizationSection(Section):
    """How the frozen base weights are held while training."""

    load_in_4bit: bool = True
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True


class LoraSection(Section):
    """LoRA, in PEFT's terms."""

    r: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: Names = LORA_TARGETS
    use_rslora: bool = False


class TrainSection(Section):
    """Training, in the terms of TRL and transformers."""

    method: Method = "sft"
    """``sft``: supervised fine-tuning on rows. ``rft``: the same on the model's own best answers. ``dpo``: preference
    training on pairs of its own answers."""
    loss_type: LossType = "sigmoid"
    """Of ``dpo``, by TRL's names: ``sigmoid`` (arXiv:2305.18290), ``ipo`` (arXiv:2310.12036), ``sigmoid_norm`` (by
    length-normalized log-probabilities)."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly ``dpo`` holds the model near the one that it began from."""
    sft_weight: float = Field(default=0.2, ge=0)
    """Weight of the loss of supervised fine-tuning on winners beside that of ``dpo``, against drift."""
    learning_rate: float = Field(default=2e-4, gt=0)
    num_train_epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; overrides ``num_train_epochs``."""
    per_device_train_batch_size: int = Field(default=1, gt=0)
    gradient_accumulation_steps: int = Field(default=16, gt=0)
    max_length: int = Field(default=2048, ge=32)
    warmup_steps: float = Field(default=0.03, ge=0)
    """Below 1: a share of all steps."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_8bit"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_checkpointing: bool = True
    eval_steps: float = Field(default=0.1, gt=0)
    """Steps between validation losses and checkpoints; below 1: a share of all steps."""
    save_minutes: float = Field(default=10.0, ge=0)
    """Minutes of training between two checkpoints at the most, beside those of ``eval_steps``; 0 for none by time. What
    a power cut can cost."""
    early_stopping_patience: int | None = Field(default=3, gt=0)
    """Validation losses without improvement before training ends; leave out for none."""
    report_to: Annotated[tuple[Reporter, ...], Field(strict=False)] = ()
    """Who else records losses and learning rate, by transformers' names; nobody by default. Not a part of what makes
    two runs the same run. See watching.md."""
    seed: int = Field(default=0, ge=0)


class HardwareSection(Section):
    """What the machine has, and what the plan may give up to fit into it."""

    engine: Literal["auto", "unsloth", "reference"] = "auto"
    require_gpu: bool = False
    vram_gib: float | None = Field(default=None, gt=0)
    ram_gib: float | None = Field(default=None, gt=0)
    allow: Annotated[tuple[Allow, ...], Field(strict=False)] = (
        "checkpointing",
        "offload_embedding",
        "offload_head",
        "offload_optimizer",
        "offload_activations",
        "offload_layers",
        "smaller_batch",
        "chunked_loss",
    )
    """What the plan may change so that a stage fits, and to be fast: by default whatever leaves the training what it
    was. See memory.md for what each word costs."""


class ExportSection(Section):
    """The GGUF that is written."""

    quant: Quant = "Q4_K_M"
    rounding: Literal["bf16", "f16", "f32"] = "bf16"
    """Type that merged weights are rounded to before they are quantized."""
    imatrix: str | None = None
    """Importance matrix that llama.cpp's ``llama-imatrix`` measured, for quantized types; leave out for none."""
    n_ctx: int = Field(default=4096, ge=256)
    verify_rows: int = Field(default=8, ge=0)
    """Held-out rows on which the GGUF is held against base + adapter; 0 for none."""
    require_stop: bool = True
    """Whether a GGUF whose answer does not end by itself is rejected."""
    ollama: str | None = None
    """Name for ``ollama create``; leave out to write the Modelfile only."""


class BenchSection(Section):
    """The latency gate."""

    gate_s: float = Field(default=10.0, gt=0)
    """Seconds for a whole test file, at the 95th percentile."""
    max_prompts: int = Field(default=12, gt=0)
    max_new_tokens: int = Field(default=384, gt=0)


SUITES = "samples, humaneval, testgeneval[:PATH], self_correction[:PATH] or jsonl:PATH"
"""Every suite, as a message names them."""


def is_suite(text: str) -> bool:
    """Whether a text names a suite."""
    kind, sign, path = text.partition(":")
    if kind in ("samples", "humaneval"):
        return not sign
    return (kind == "jsonl" and bool(path)) or (kind in ("testgeneval", "self_correction") and bool(sign) == bool(path))


class EvalSection(Section):
    """What the model is judged on."""

    suites: Names = ("samples",)
    """``samples``, ``humaneval``, ``testgeneval[:PATH]``, ``self_correction[:PATH]``, or ``jsonl:PATH``."""
    repos: str | None = None
    """Folder with checkouts of the repositories that tasks of testgeneval come from; leave out to judge those by their
    text alone."""
    max_tasks: int | None = Field(default=None, gt=0)
    samples_per_task: int = Field(default=1, gt=0)
    """1: greedy. More: sampled at ``temperature``, for Pass@k."""
    temperature: float = Field(default=0.6, gt=0)
    max_new_tokens: int = Field(default=384, gt=0)
    seed: int = Field(default=0, ge=0)
    after_each_stage: bool = False
    """Whether every stage is exported and evaluated, not the base and the last one alone, to show what each gave."""
    gate_pass_rate: float = Field(default=0.8, ge=0, le=1)
    gate_mutation_score: float = Field(default=0.5, ge=0, le=1)

    @field_validator("suites")
    @classmethod
    def _known_suites(cls, suites: tuple[str, ...]) -> tuple[str, ...]:
        for suite in suites:
            if not is_suite(suite):
                raise ValueError(f'unknown suite "{suite}"; use {SUITES}')
        return suites


class Recipe(Section):
    """One stage, resolved."""

    schema_version: Literal[1] = 1
    description: str = ""
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    quantization: QuantizationSection = QuantizationSection()
    lora: LoraSection = LoraSection()
    preference: PreferenceSection = PreferenceSection()
    train: TrainSection = TrainSection()
    hardware: HardwareSection = HardwareSection()
    export: ExportSection = ExportSection()
    bench: BenchSection = BenchSection()
    eval: EvalSection = EvalSection()


SECTIONS = tuple(name for name in Recipe.model_fields if name not in ("schema_version", "description"))
"""The names of the tables of a recipe, in the order in which they are shown."""


def trained_and_evaluated(data: DataSection, evaluation: EvalSection) -> list[str]:
    """Files that are both trained on and evaluated on."""
    if data.path is None:
        return []
    paths = [suite.partition(":")[2] for suite in evaluation.suites]
    return [path for path in paths if path and Path(path).resolve() == Path(data.path).resolve()]
