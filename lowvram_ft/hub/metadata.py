"""The head of a model card, in the hub's own format: what its search, its model tree and its charts read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowvram_ft.hub.artifacts import Artifact
from lowvram_ft.hub.licences import Licence
from lowvram_ft.report.cells import RATES

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TASK = ("text-generation", "Writing pytest tests")
SUITES = {
    "samples": ("lowvram-ft/samples", "samples (held-out tasks that ship with lowvram-ft)"),
    "humaneval": ("openai/openai_humaneval", "HumanEval"),
    "testgeneval": ("kjain14/testgeneval", "TestGenEval"),
    "self_correction": ("lowvram-ft/self_correction", "self-correction (failing tests that ship with lowvram-ft)"),
}
"""Kind of a suite to its id and its name on the hub. Those of a file of somebody's own are not named."""
OWN_SUITE = ("private", "tasks of the author's own")


def metadata(
    artifact: Artifact, repo_id: str, licence: Licence, has_adapter: bool, has_gguf: bool, adapter_repo: str | None
) -> ModelCardData:
    """The head of the card.

    Args:
        artifact: what is sent.
        repo_id: where to.
        licence: of the result.
        has_adapter: whether the repository has an adapter then, sent now or earlier.
        has_gguf: whether it has a GGUF then.
        adapter_repo: the repository of the adapter that a GGUF was made of.
    """
    from huggingface_hub import ModelCardData

    base, relation = _place(artifact, has_adapter, adapter_repo)
    more: dict[str, Any] = {"base_model_relation": relation} if relation is not None else {}
    results = eval_results(artifact)
    name = repo_id.partition("/")[2]
    if licence.id == "other":
        more |= {"license_name": licence.name, "license_link": licence.link or "README.md"}
    run = artifact.run
    datasets = list(dict.fromkeys(stage.hub_id for stage in run.stages if stage.hub_id)) if run else []
    return ModelCardData(
        base_model=base,
        datasets=datasets or None,
        language=["en", "code"],
        library_name="peft" if has_adapter else "gguf",
        license=licence.id,
        pipeline_tag=TASK[0],
        tags=_tags(artifact, has_adapter, has_gguf),
        model_name=name if results else None,
        eval_results=results or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        **more,
    )


def _place(artifact: Artifact, has_adapter: bool, adapter_repo: str | None) -> tuple[str, str | None]:
    """The place in the hub's tree of models: whose child this is, and how.

    A GGUF of a fine-tune is a quantization of *that*, where it is on the hub, and not of the base, under whose own
    quantizations nobody would look for a model that answers differently. Where nothing is known, nothing is said.
    """
    if has_adapter or (artifact.gguf is not None and artifact.gguf.is_lora):
        return artifact.base, "adapter"
    if adapter_repo is not None:
        return adapter_repo, "quantized"
    return artifact.base, "finetune" if is_trained(artifact) else None


def is_trained(artifact: Artifact) -> bool | None:
    """Whether it is more than the base in another form; None for a GGUF that does not say what it was made of."""
    lora = artifact.gguf is not None and artifact.gguf.is_lora
    if artifact.adapter is not None or artifact.run is not None or lora:
        return True
    return True if "LoRA adapter" in (artifact.description or "") else None


def _tags(artifact: Artifact, has_adapter: bool, has_gguf: bool) -> list[str]:
    run = artifact.run
    tags = ["lowvram-ft"]
    if has_adapter:
        tags += ["peft", "lora"]
        if run is not None and all(stage.settings["quantization"]["load_in_4bit"] for stage in run.stages):
            tags.append("qlora")
    if has_gguf:
        tags.append("gguf")
    if run is not None:
        tags += ["code", "python", "pytest", "unit-test-generation"]
        tags += sorted({stage.settings["train"]["method"] for stage in run.stages})
        if any(stage.result.get("engine") == "unsloth" for stage in run.stages):
            tags.append("unsloth")
    return tags


def eval_results(artifact: Artifact) -> list[EvalResult]:
    """What was measured of this very model, as shares between 0 and 1, each with its interval and number of tasks."""
    from huggingface_hub import EvalResult

    found = []
    for suite, sides in (artifact.run.evaluation if artifact.run else {}).items():
        means = sides["after"]
        dataset, name = suite_on_the_hub(suite)
        for key, label in RATES.items():
            if means.get(key) is not None:
                found.append(
                    EvalResult(
                        task_type=TASK[0],
                        task_name=TASK[1],
                        dataset_type=dataset,
                        dataset_name=name,
                        metric_type=key,
                        metric_name=label,
                        metric_value=round(float(means[key]), 4),
                        metric_args=_arguments(means, key),
                    )
                )
    return found


def _arguments(means: Mapping[str, Any], key: str) -> dict[str, Any]:
    """How a mean was measured, and how sure it is."""
    ends = means.get("intervals", {}).get(key)
    found: dict[str, Any] = {"tasks": means["tasks"], "samples_per_task": means.get("samples_per_task", 1)}
    if ends is not None:
        found |= {"confidence_level": 0.95, "confidence_interval": [round(float(end), 4) for end in ends]}
    return found


def suite_on_the_hub(suite: str) -> tuple[str, str]:
    """Id and name of a suite; a file of somebody's own has neither."""
    kind, _, path = suite.partition(":")
    return OWN_SUITE if path or kind not in SUITES else SUITES[kind]
