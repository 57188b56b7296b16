"""Export LoRA fine-tunes to GGUF and prove what came out.

Stands alone: it needs numpy, ml_dtypes, tokenizers, jinja2, gguf, threadpoolctl and llama-cpp-python, and none of the
libraries that train; llvmlite, where it is installed, makes the quantizers fast. ``gguf``, ``tokenizers`` and
``llvmlite`` are imported when they are first used, llama.cpp only in a child process (but for its plain
quantization code, which ctypes loads).
"""

from __future__ import annotations

from .adapters.adapter import Adapter
from .adapters.files import refuse_what_is_no_adapter
from .checkpoints.hub import link_model, linked_bytes
from .checkpoints.weights import Checkpoint
from .child import require_llama_cpp
from .errors import (
    BrokenFileError,
    DiskSpaceError,
    DownloadError,
    ExportError,
    HostMemoryError,
    MissingLibraryError,
    UnsupportedError,
    VerificationFailed,
)
from .export import ExportResult, export
from .files import sha256_of
from .lora_gguf import LoraResult, export_lora
from .ollama.gotemplate import render_modelfile_messages, render_modelfile_template
from .ollama.modelfile import modelfile
from .proof.reference import Reference, ReferenceSequence
from .proof.verification import Check, Threshold, Verification
from .proof.verify import reject, rejected_names, verify
from .quantize import QUANT_TYPES, quantize
from .quantizers.block_quantizers import QuantizerWarning, RowQuantizer, row_quantizer
from .quantizers.imatrix import Imatrix
from .reading import GgufFile
from .safetensors_out import merge_to_safetensors
from .staging import Stage, staged
from .vocabulary.templates import read_template, render, template_of
from .vocabulary.trained import TrainedChat, trained_chat

__all__ = [
    "QUANT_TYPES",
    "Adapter",
    "BrokenFileError",
    "Check",
    "Checkpoint",
    "DiskSpaceError",
    "DownloadError",
    "ExportError",
    "ExportResult",
    "GgufFile",
    "HostMemoryError",
    "Imatrix",
    "LoraResult",
    "MissingLibraryError",
    "QuantizerWarning",
    "Reference",
    "ReferenceSequence",
    "RowQuantizer",
    "Stage",
    "Threshold",
    "TrainedChat",
    "UnsupportedError",
    "Verification",
    "VerificationFailed",
    "export",
    "export_lora",
    "link_model",
    "linked_bytes",
    "merge_to_safetensors",
    "modelfile",
    "quantize",
    "read_template",
    "refuse_what_is_no_adapter",
    "reject",
    "rejected_names",
    "render",
    "render_modelfile_messages",
    "render_modelfile_template",
    "require_llama_cpp",
    "row_quantizer",
    "sha256_of",
    "staged",
    "template_of",
    "trained_chat",
    "verify",
]
