"""One contestant of `training.py` in a process of its own, so that its patches of the libraries stay with it.

    python -m benchmarks.training_contestants < job

The first line of stdin is the job as JSON (see `Job`); then each line ``N`` asks for N optimizer steps, and the end of
stdin for the summary. Each answer is one line of JSON on stdout: ready, seconds and tokens of the steps, the summary.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0


@dataclass(frozen=True)
class Job:
    """What a contestant gets.

    Attributes:
        contestant: its name; see `training.CONTESTANTS`.
        model: folder of the base model.
        rows: a JSON file: ``input_ids`` and ``labels`` of each row, in the order in which all train on them.
        recipe: sections ``train``, ``lora``, ``quantization`` of the recipe, as JSON.
        plan: fields of `LoadPlan` that the memory plan set.
        steps: optimizer steps in all.
        trl: folder with another version of TRL; None for the installed one.
        cap_bytes: what of the card may be used, where that is less than all of it.
    """

    contestant: str
    model: str
    rows: str
    recipe: dict[str, Any]
    plan: dict[str, Any]
    steps: int
    trl: str | None
    cap_bytes: int | None = None


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Unsloth greets on stdout
    job = Job(**json.loads(sys.stdin.readline()))
    if job.trl is not None:
        sys.path.insert(0, job.trl)
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as out:
        trainer = build(job, Path(out))
        gate = _gated(trainer, answers)
        same_start(trainer.model)
        print(json.dumps({"ready": describe(trainer)}), file=answers)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"losses": losses, "peak_bytes": _peak_bytes(), "tokens": gate.tokens}), file=answers)


def build(job: Job, out: Path) -> Any:
    """The contestant's trainer, over the rows in their order."""
    if job.contestant == "reference" or job.contestant == "unsloth":
        return _ours(job, out)
    if job.contestant == "unsloth_auto":
        return _unsloth_auto(job, out)
    return _plain(job, out)


def _ours(job: Job, out: Path) -> Any:
    """This project's engines with the memory plan's settings."""
    if job.contestant == "unsloth":  # the first of all imports: it patches the others
        from lowvram_ft.training.engines.unsloth import UnslothEngine as Engine
    else:
        from lowvram_ft.training.engines.reference import ReferenceEngine as Engine  # type: ignore[assignment]
    from torch.utils.data import SequentialSampler

    from lowvram_ft.recipe import LoraSection, QuantizationSection, TrainSection
    from lowvram_ft.training.engines import LoadPlan

    section = job.recipe["train"] | {"max_steps": job.steps, "eval_steps": 1.0}
    train, engine = TrainSection(**section), Engine()
    sections = {
        "quantization": QuantizationSection(**job.recipe["quantization"]),
        "lora": LoraSection(**job.recipe["lora"]),
    }
    loaded = engine.load(Path(job.model), LoadPlan(**sections, **job.plan), None)
    trainer = engine.trainer("sft", loaded, train, _rows(job), None, out, [])
    trainer._get_train_sampler = lambda rows=None: SequentialSampler(rows or trainer.train_dataset)
    return trainer


def _plain(job: Job, out: Path) -> Any:
    """PEFT + TRL as a plain script has them.

    ``trl``: as TRL's documentation shows it. ``defaults``: the same. ``best``: with the flags that helped most.
    """
    import torch
    import transformers
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    on_gpu, best = torch.cuda.is_available(), job.contestant.endswith("best")
    train, lora, quantization = (job.recipe[name] for name in ("train", "lora", "quantization"))
    micro = train["per_device_train_batch_size"]
    accumulation = train["gradient_accumulation_steps"]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": min(8, micro * accumulation),  # TRL's default
        "gradient_accumulation_steps": max(1, micro * accumulation // 8),
    }
    if best:
        settings = {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "gradient_checkpointing": train["gradient_checkpointing"],
        }
    config = SFTConfig(
        output_dir=str(out),
        max_steps=job.steps,
        max_length=None,
        learning_rate=train["learning_rate"],
        lr_scheduler_type=train["lr_scheduler_type"],
        warmup_steps=train["warmup_steps"],
        weight_decay=train["weight_decay"],
        max_grad_norm=train["max_grad_norm"],
        seed=SEED,
        train_sampling_strategy="sequential",  # the rows are grouped by length already, for everybody
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        **({} if quantization["load_in_4bit"] else {"model_init_kwargs": {"dtype": "bfloat16"}}),
        **settings,
    )
    trainer_class: Any = SFTTrainer
    if job.contestant.startswith("transformers_loss"):

        class OwnLoss(SFTTrainer):  # type: ignore[misc]
            """TRL's trainer with the loss that transformers' models have: TRL's own needs Triton from 1.15 on."""

            compute_loss = transformers.Trainer.compute_loss

        trainer_class = OwnLoss
    transformers.set_seed(SEED)
    return trainer_class(
        model=_quantized(job) if quantization["load_in_4bit"] else job.model,
        args=config,
        train_dataset=_rows(job),
        processing_class=transformers.AutoTokenizer.from_pretrained(job.model),
        peft_config=LoraConfig(**lora, bias="none", task_type="CAUSAL_LM"),
    )


def _quantized(job: Job) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**job.recipe["quantization"], bnb_4bit_compute_dtype=torch.bfloat16)
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16, quantization_config=config)


def _unsloth_auto(job: Job, out: Path) -> Any:
    """Unsloth's own choice of what stays on the card."""
    import unsloth  # noqa: F401

    # isort: split
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel

    train, lora = job.recipe["train"], job.recipe["lora"]
    base, tokenizer = FastLanguageModel.from_pretrained(
        model_name=job.model,
        max_seq_length=train["max_length"],
        load_in_4bit=job.recipe["quantization"]["load_in_4bit"],
        use_gradient_checkpointing="unsloth",
        offload_layers="auto",
        **({} if job.cap_bytes is None else {"device_map_planner_kwargs": {"max_memory": _most(job.cap_bytes)}}),
    )
    peft = FastLanguageModel.get_peft_model(
        base, **lora, bias="none", use_gradient_checkpointing="unsloth", random_state=SEED
    )
    config = SFTConfig(
        output_dir=str(out),
        max_steps=job.steps,
        per_device_train_batch_size=train["per_device_train_batch_size"],
        gradient_accumulation_steps=train["gradient_accumulation_steps"],
        learning_rate=train["learning_rate"],
        lr_scheduler_type=train["lr_scheduler_type"],
        warmup_steps=train["warmup_steps"],
        weight_decay=train["weight_decay"],
        max_grad_norm=train["max_grad_norm"],
        optim=train["optim"],
        max_length=None,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        seed=SEED,
    )
    return SFTTrainer(model=peft, args=config, train_dataset=_rows(job), processing_class=tokenizer)


def _most(cap_bytes: int) -> dict[int, str]:
    """A cap in the planner's words: it plans for the whole card otherwise, whatever torch is limited to."""
    return {0: f"{cap_bytes / 2**30:.2f}GiB"}


def _rows(job: Job) -> Any:
    from datasets import Dataset

    return Dataset.from_list(json.loads(Path(job.rows).read_text(encoding="utf-8")))


def same_start(model: Any) -> None:
    """Give the adapter the same weights in every contestant: drawn by name, as PEFT draws them (B is zero)."""
    import zlib

    import torch

    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            generator = torch.Generator().manual_seed(zlib.crc32(name[name.index("layers.") :].encode()))
            bound = parameter.shape[1] ** -0.5  # Kaiming's for a = sqrt(5)
            values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            with torch.no_grad():
                parameter.copy_(values)


def describe(trainer: Any) -> dict[str, Any]:
    """The settings that decide speed and memory, as they are and not as they were asked for."""
    args, model = trainer.args, trainer.model
    versions = {name: sys.modules[name].__version__ for name in ("trl", "peft", "transformers", "torch")}
    if "unsloth" in sys.modules:
        versions["unsloth"] = sys.modules["unsloth"].__version__
    return {
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "gradient_checkpointing": bool(args.gradient_checkpointing),
        "autocast_bf16": bool(args.bf16),
        "optim": str(getattr(args.optim, "value", args.optim)),
        "frozen_dtypes": sorted({str(p.dtype) for p in model.parameters() if not p.requires_grad}),
        "lora_dtypes": sorted({str(p.dtype) for p in model.parameters() if p.requires_grad}),
        "attention": model.get_base_model().config._attn_implementation,
        "versions": versions,
    }


def _gated(trainer: Any, answers: Any) -> Any:
    """Let the trainer take as many steps as it is asked for, and tell how long they took."""
    from transformers import TrainerCallback

    class Gate(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = self.asked = 0
            self.began = self.cpu_began = 0.0
            self.tokens: list[tuple[int, int]] = []
            self.first = 0

        def on_step_begin(self, *arguments: Any, **named: Any) -> None:  # noqa: ARG002 - the trainer names them
            if self.left == 0:
                self.left = self.asked = int(sys.stdin.readline())
                self.first, self.cpu_began, self.began = len(self.tokens), time.process_time(), time.perf_counter()

        def on_step_end(self, *arguments: Any, **named: Any) -> None:  # noqa: ARG002
            self.left -= 1
            if self.left == 0:
                _synchronize()
                seconds, seen = time.perf_counter() - self.began, self.tokens[self.first :]
                found = {
                    "seconds": seconds,
                    "cpu_seconds": time.process_time() - self.cpu_began,
                    "steps": self.asked,
                    "tokens": sum(real for real, _ in seen),
                    "padded": sum(padded for _, padded in seen),
                }
                print(json.dumps(found), file=answers)

    gate = Gate()
    step = trainer.training_step

    def counted(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        gate.tokens.append((int(inputs["attention_mask"].sum()), inputs["input_ids"].numel()))
        return step(model, inputs, *rest, **named)

    trainer.training_step = counted
    trainer.add_callback(gate)
    return gate


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_bytes() -> int:
    """Reserved on the card where there is one, else resident on the host."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
