"""A recipe from its plan to its report: which step is next (`run`), and what each step does.

`job` is a recipe in its run directory; `stages` trains one stage after the other (`training`: on rows; `preference`: on
the model's own answers, in rounds), `exporting` writes GGUFs, `evaluating` judges them. `by_hand` does the parts of a
round one by one.
"""

from lowvram_ft.pipeline.job import Job, default_out, remove_run, require_fit
from lowvram_ft.pipeline.run import run_all
from lowvram_ft.pipeline.stages import require_preferences, train

__all__ = ["Job", "default_out", "remove_run", "require_fit", "require_preferences", "run_all", "train"]
