"""What is trained (`TrainingSetup`) and where (`Budget`): the two inputs of a plan beside the shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lowvram_ft.errors import UsageError
from lowvram_ft.memory.shape import LINEAR_NAMES

Optimizer = Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch"]
Kernels = Literal["eager", "fused", "cpu"]
Head = Literal["device", "host", "nf4"]
Platform = Literal["linux", "wsl", "windows", "macos"]

GIB = 2**30
MIB = 2**20

CUDA_CONTEXT_BYTES = 300 * MIB
"""What a process with a CUDA context and cuBLAS holds on the card before its first tensor.

Assumption for a 4 GiB consumer card; no allocator counts it, `nvidia-smi` shows it.
"""

DISPLAY_BYTES: dict[Platform, int] = {"linux": 212 * MIB, "wsl": 519 * MIB, "windows": 519 * MIB, "macos": 0}
"""What the desktop holds on the card: with the context, 0.5 GiB on Linux and 0.8 GiB under WDDM.

Assumption: usable of a 4 GiB card about 3.5 GiB on Linux and 3.2 GiB on Windows or WSL.
"""

CUBLAS_WORKSPACE_BYTES = 2 * (2 * 4096 + 8 * 16) * 1024
"""Workspace of cuBLAS, one for the thread of the forward pass and one for that of the backward pass.

Source: PyTorch, "CUDA semantics", cuBLAS workspaces: ``CUBLAS_WORKSPACE_CONFIG`` is ``:4096:2:16:8`` where it is not
set (Hopper takes 32 MiB a thread).
"""

HEAD_SLICE_ROWS = 4096
"""Rows at a time of a head that is not on the card in 16 bits (``lowvram_ft.training.vocabulary.tables``)."""

SYSTEM_SHARE: dict[Platform, float] = {"linux": 0.125, "wsl": 0.125, "windows": 0.25, "macos": 0.25}
"""The share of the host's memory that is left to the rest of the machine. Assumption."""


@dataclass(frozen=True)
class Budget:
    """What a machine has.

    Attributes:
        vram_bytes: the size of the card (not what is free on it); None trains on the CPU.
        ram_bytes: the size of the host's memory, or of the container.
        platform: decides the reserves.
        display: whether a desktop is drawn by the card.
        disk_bytes: free disk; None leaves the disk unchecked.
    """

    vram_bytes: int | None
    ram_bytes: int
    platform: Platform = "linux"
    display: bool = True
    disk_bytes: int | None = None

    def __post_init__(self) -> None:
        for key in ("vram_bytes", "ram_bytes", "disk_bytes"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"memory plan: {key}: must be above 0 (got {value}); give what is there")

    @property
    def display_bytes(self) -> int:
        """The desktop's share of the card."""
        return DISPLAY_BYTES[self.platform] if self.display else 0

    @property
    def usable_gpu_bytes(self) -> int:
        """What torch may reserve on the card: its size less context and desktop."""
        if self.vram_bytes is None:
            return 0
        return max(0, self.vram_bytes - CUDA_CONTEXT_BYTES - self.display_bytes)

    @property
    def system_bytes(self) -> int:
        """What is left to the rest of the machine."""
        return int(self.ram_bytes * SYSTEM_SHARE[self.platform])


@dataclass(frozen=True)
class TrainingSetup:
    """One training configuration, down to what its memory depends on.

    Attributes:
        load_in_4bit: NF4 weights in the decoder's linear layers; False keeps ``compute_dtype_bytes``.
        double_quant: bitsandbytes' ``bnb_4bit_use_double_quant``.
        r: LoRA rank.
        target_modules: linear layers that get a LoRA pair.
        lora_dropout: above 0, every LoRA input is kept a second time.
        per_device_train_batch_size: rows of one micro-batch.
        sequences_per_row: 1; 2 where a row is a pair, whose sequences go through the model together.
        gradient_accumulation_steps: micro-batches of one optimizer step.
        max_length: tokens of one sequence.
        gradient_checkpointing: keep one hidden state a layer and compute the rest again.
        optimizer: as transformers names it.
        compute_dtype_bytes: of activations, embedding, head, norms and biases.
        lora_dtype_bytes: of LoRA weights and gradients (PEFT's ``autocast_adapter_dtype``: 4).
        offload_layers: frozen decoder layers that stay in host memory and stream through the card.
        slot_layers: layers' worth of card memory that the streamed ones pass through: one more than are fetched
            ahead (Unsloth's ``prefetch_depth``).
        offload_embedding: keep the embedding in host memory (not where it is tied to the head).
        offload_activations: keep the checkpointed hidden states in host memory (Unsloth does so from 512 tokens on).
        offload_optimizer: keep the optimizer's state in host memory, and step there.
        head: where the output head is, if it is no view of the embedding: in 16 bits on the device; in 16 bits on the
            host, from where it passes through the device in slices of the vocabulary; or in NF4 on the device.
        nf4_embedding: hold the embedding in NF4 (with the head where they are tied).
        loss_chunk: tokens whose logits exist at a time; None is the whole micro-batch at once, as
            transformers' own loss has it. The loss of pairs makes none for prompts, and passes over the head in slices
            of the vocabulary besides. A head on the host or in NF4 makes logits of `HEAD_SLICE_ROWS` tokens of
            the vocabulary at a time instead, for all positions.
        n_ctx: context of the exported model, whose answers are evaluated after training.
        kernels: ``eager`` is transformers + PEFT, ``fused`` is Unsloth's Triton kernels, ``cpu`` is what the reference
            engine makes of PEFT's layers and of the loss on a CPU (``lowvram_ft.training.fused``).
        more_ggufs: exports on the disk beside the last: those that answer in the rounds of a stage of preferences, and
            that of a stage which is evaluated by itself.
        keep_dequantized: hold the 4-bit weights under LoRA in the compute dtype besides, so that they are dequantized
            once and not at each use (``cpu`` alone).
    """

    load_in_4bit: bool = True
    double_quant: bool = True
    r: int = 16
    target_modules: tuple[str, ...] = LINEAR_NAMES
    lora_dropout: float = 0.0
    per_device_train_batch_size: int = 1
    sequences_per_row: int = 1
    gradient_accumulation_steps: int = 16
    max_length: int = 2048
    gradient_checkpointing: bool = True
    optimizer: Optimizer = "adamw_8bit"
    compute_dtype_bytes: int = 2
    lora_dtype_bytes: int = 4
    offload_layers: int = 0
    slot_layers: int = 2
    offload_embedding: bool = False
    offload_activations: bool = False
    offload_optimizer: bool = False
    head: Head = "device"
    nf4_embedding: bool = False
    loss_chunk: int | None = None
    n_ctx: int = 4096
    kernels: Kernels = "eager"
    keep_dequantized: bool = False
    more_ggufs: int = 0

    def __post_init__(self) -> None:
        for key in (
            "r",
            "per_device_train_batch_size",
            "sequences_per_row",
            "gradient_accumulation_steps",
            "max_length",
            "slot_layers",
            "n_ctx",
        ):
            if getattr(self, key) < 1:
                raise UsageError(f"memory plan: {key}: must be at least 1 (got {getattr(self, key)})")
        if self.offload_layers < 0:
            raise UsageError(f"memory plan: offload_layers: must not be below 0 (got {self.offload_layers})")
        if self.loss_chunk is not None and self.loss_chunk < 1:
            raise UsageError(f"memory plan: loss_chunk: must be at least 1 (got {self.loss_chunk})")
        if unknown := [name for name in self.target_modules if name not in LINEAR_NAMES]:
            raise UsageError(
                f"memory plan: target_modules: unknown (got {', '.join(unknown)}); "
                f"choose from {', '.join(LINEAR_NAMES)}"
            )
        if self.offload_layers and not self.gradient_checkpointing:
            raise UsageError(
                "memory plan: offload_layers: needs gradient_checkpointing, because a streamed layer is gone "
                "when backward reaches it; set gradient_checkpointing = true"
            )

    @property
    def sequences(self) -> int:
        """Sequences of one micro-batch."""
        return self.per_device_train_batch_size * self.sequences_per_row

    @property
    def compares_pairs(self) -> bool:
        """Whether rows are pairs."""
        return self.sequences_per_row > 1

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch, padding included."""
        return self.sequences * self.max_length

    @property
    def effective_batch(self) -> int:
        """Rows of one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
