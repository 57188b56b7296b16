"""Reports of a run. They read ``run.json``, ``events.jsonl`` and ``samples.jsonl``, and nothing else."""
