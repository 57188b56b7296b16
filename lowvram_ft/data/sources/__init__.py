"""Where rows come from: one module for each kind of data set, all behind `Source`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lowvram_ft.data.objects import Raw, raw_objects
from lowvram_ft.data.row import Row
from lowvram_ft.data.sources import coderm, failure_traces, kodcode, repository, samples, testgeneval, winners
from lowvram_ft.data.sources.source import LeftOut, Source
from lowvram_ft.recipe import DataSection

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (samples, kodcode, testgeneval, coderm, failure_traces, repository, winners)
}
"""By the name that ``data.source`` has."""


def raw_rows(section: DataSection) -> Iterator[Raw]:
    """What the source of a ``[data]`` section holds, unread.

    Raises:
        DataError: a file is missing, or a split of a data set.
        MachineError: the hub cannot be reached.
    """
    return raw_objects(section, files_of(section), SOURCES[section.source].hub_id)


def files_of(section: DataSection) -> list[Path]:
    """The package's own files that a section names; empty where it names something else."""
    if section.source != "samples":
        return []
    names = [samples.SAMPLE_FILES[section.subset]] if section.subset else list(samples.SAMPLE_FILES.values())
    return [samples.sample_path(name) for name in names]


def load_rows(section: DataSection) -> Iterator[Row]:
    """The rows of a source as they are: none is filtered, those that cannot be read are passed over.

    Raises:
        DataError: a file is missing, or a column is.
        MachineError: the hub cannot be reached.
    """
    read = SOURCES[section.source].rows
    for raw in raw_rows(section):
        value, _ = raw.value()
        if value is not None:
            try:
                yield from read(value, raw.where)
            except LeftOut:
                continue
