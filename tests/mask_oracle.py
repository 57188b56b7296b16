"""What loss is to fall on, told from the texts alone; and, as a process, the batches that an engine's trainer sees.

    python -m tests.mask_oracle ENGINE MODELS SOURCES OUT

``MODELS`` holds a model folder for each family of `tests.chat_templates`, ``SOURCES`` a JSONL file for each source.
Writes ``OUT/FAMILY.json``: for each source, how many rows were seen, and what is wrong with which of them.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.prepared import IGNORE_INDEX, Example
from lowvram_ft.data.sources import SOURCES
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat, apply_template, from_folder
from tests.chat_templates import FAMILIES

MAX_LENGTH = 4096


def wrong(
    ids: Sequence[int], labels: Sequence[int], example: Example, family: str, decode: Callable[[list[int]], str]
) -> str | None:
    """What is wrong with a row's labels; None where nothing is.

    The texts are the template's own, and what it writes between completion and end token is known by hand; nothing is
    taken from `ChatFormat.render`.

    Args:
        ids: tokens, shape [T].
        labels: shape [T].
        example: the row.
        family: of `FAMILIES`.
        decode: tokens to text, special tokens included.
    """
    template, system, end, blank = FAMILIES[family]
    if len(ids) != len(labels):
        return "not a label a token"
    trained = [label for label in labels if label != IGNORE_INDEX]
    start = len(ids) - len(trained)
    if list(labels) != [IGNORE_INDEX] * start + list(ids[start:]):
        return "the trained part is not one piece at the end, or its labels are not its tokens"
    if decode(trained) != example.row.completion + blank + end:
        return f"trained on {decode(trained)[-80:]!r}"
    if not example.row.completion.strip() or decode(trained[-1:]) != end:
        return "the last token is not the end token"
    messages = [{"role": "user", "content": example.row.prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    asked = apply_template(template, messages, {"bos_token": "<|endoftext|>"}, add_generation_prompt=True)
    if decode(list(ids[:start])) != asked:
        return f"prompt is {decode(list(ids[:start]))[-80:]!r}"
    return None


def section(source: str, path: Path | None) -> DataSection:
    """Everything that a source holds; rows that are alike stay."""
    return DataSection(source=source, path=path and str(path), duplicates="keep", eval_share=0.1)


def prepared_rows(source: str, path: Path | None, chat: ChatFormat, folder: Path) -> tuple[list[Example], list[Any]]:
    """The training rows of a source, and the same as the trainer's data set has them."""
    train = prepare(section(source, path), chat, MAX_LENGTH, folder).train
    return list(train), list(train.for_trainer())


def main() -> None:
    engine_name, models, sources, out = sys.argv[1], *map(Path, sys.argv[2:5])
    for family in FAMILIES:
        found = through_the_trainer(engine_name, models / family, sources, out / f"set-{family}", family)
        (out / f"{family}.json").write_text(json.dumps(found), encoding="utf-8")


def through_the_trainer(
    engine_name: str, model: Path, sources: Path, folder: Path, family: str
) -> dict[str, dict[str, Any]]:
    """Every source's rows, as they come out of the collator of an engine's trainer: how many, and what is wrong."""
    engine = _engine(engine_name)
    from datasets import concatenate_datasets

    from tests.tiny_runs import load_plan, train_section

    chat = from_folder(model)
    sets = {}
    for source in SOURCES:
        path = sources / f"{source}.jsonl"
        sets[source] = prepare(section(source, path if path.is_file() else None), chat, MAX_LENGTH, folder / source)
    rows = [example for one in sets.values() for example in one.train]
    owners = [source for source, one in sets.items() for _ in one.train]
    dataset = concatenate_datasets([one.train.for_trainer() for one in sets.values()])
    loaded = engine.load(model, load_plan(), None)
    trainer = engine.trainer("sft", loaded, train_section(), dataset, None, folder / "out", [])
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"rows": 0, "wrong": {}})
    seen = trainer.train_dataset
    assert len(seen) == len(rows)
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        batch = trainer.data_collator([dict(seen[start + i]) for i in range(len(part))])
        for i, example in enumerate(part):
            real = int(batch["attention_mask"][i].sum()) if "attention_mask" in batch else len(example.input_ids)
            ids, labels = batch["input_ids"][i].tolist(), batch["labels"][i].tolist()
            problem = wrong(ids[:real], labels[:real], example, family, trainer.processing_class.decode)
            if problem is None and set(labels[real:]) - {IGNORE_INDEX}:
                problem = "loss on padding"
            counted = found[owners[start + i]]
            counted["rows"] += 1
            if problem is not None:
                counted["wrong"][example.row.id] = problem
    return dict(found)


def _engine(name: str) -> Any:
    if name == "unsloth":
        from lowvram_ft.training.engines.unsloth import UnslothEngine

        return UnslothEngine()
    from lowvram_ft.training.engines.reference import ReferenceEngine

    return ReferenceEngine()


if __name__ == "__main__":
    main()
