"""Quantizers that write the bytes of ggml's, many blocks at a time.

ggml searches the scale of each block in scalar code. Here a block, or a super-block, takes one lane of a vector
register, and every lane goes through ggml's operations in ggml's order, so that the bytes are the same. The
kernels are written down in LLVM assembly (``vectors``, then one module a family of types) and compiled for the
CPU at hand when they are first used (``machine``). Needs llvmlite; importing ``kernels`` imports it.
"""
