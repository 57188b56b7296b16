"""Training: one TRL trainer under two engines.

A newcomer reads `stage` first, from top to bottom: one stage, from the prepared rows to the saved adapter. Then:

- `from_plan`: a recipe and its memory plan, as the sections and the `LoadPlan` that an engine takes;
- `engines`: who loads the model and builds the trainer: ``unsloth`` on a GPU, ``reference`` everywhere;
- `sft`: the one path of supervised fine-tuning, and what holds its completion mask;
- `cpu_trainer`: TRL's trainer with the loss over labelled positions alone;
- `fused`: what makes the reference engine fast on a CPU;
- `vocabulary`: embedding and head on the card, on the host or in NF4, and the loss over a head in slices;
- `recovery`: one attempt at a stage, checkpoints, out of memory and the steps down, signals;
- `reporting`: progress, and what is measured beside the plan;
- `processes`: several processes for one run;
- `answers`: what base and adapter answer, for an export to be held against.
"""
