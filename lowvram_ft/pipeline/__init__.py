"""A recipe from its plan to its report: which step is next (`run`), and what each step does.

`job` is a recipe in its run directory; `stages` trains, `exporting` writes GGUFs, `evaluating` judges them.
"""

from lowvram_ft.pipeline.job import Job, default_out, remove_run, require_fit
from lowvram_ft.pipeline.run import run_all
from lowvram_ft.pipeline.stages import train

__all__ = ["Job", "default_out", "remove_run", "require_fit", "run_all", "train"]
