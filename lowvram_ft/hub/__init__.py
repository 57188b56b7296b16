"""Adapters and GGUFs to the model hub and from there, with a model card, in the hub's own conventions.

All that goes over the network goes through ``huggingface_hub``. No file is sent whose name is not on a list, and no
text with a path of this machine.
"""
