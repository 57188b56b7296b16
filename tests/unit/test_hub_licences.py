"""Under which licence a model may be passed on."""

from __future__ import annotations

import pytest

from lowvram_ft import models
from lowvram_ft.data.sources import SOURCES
from lowvram_ft.hub.licences import UNKNOWN, licence_of, stricter

APACHE, MIT, NC = licence_of("Apache-2.0"), licence_of("mit"), licence_of("CC-BY-NC-4.0")
DEEPSEEK, QWEN = licence_of("DeepSeek licence (other)"), licence_of("Qwen research licence (non-commercial)")


@pytest.mark.parametrize(
    ("parts", "id", "name", "commercial"),
    [
        ((APACHE, APACHE), "apache-2.0", None, True),
        ((MIT, APACHE), "mit", None, True),
        ((APACHE, NC), "cc-by-nc-4.0", None, False),
        ((APACHE, NC, APACHE, NC), "cc-by-nc-4.0", None, False),
        ((DEEPSEEK, APACHE), "other", "deepseek-license", True),
        ((DEEPSEEK, NC), "other", "deepseek-license-and-cc-by-nc-4.0", False),
        ((QWEN, APACHE), "other", "qwen-research", False),
        ((APACHE, UNKNOWN), "unknown", None, None),
        ((UNKNOWN, NC), "cc-by-nc-4.0", None, False),
        ((), "unknown", None, None),
    ],
)
def test_the_stricter_of_both_holds(parts: tuple[object, ...], id: str, name: str | None, commercial: bool) -> None:
    found = stricter(parts)  # type: ignore[arg-type]
    assert (found.id, found.name, found.commercial) == (id, name, commercial)


def test_every_licence_of_the_kits_facts_is_known() -> None:
    for base in models.known_models():
        licence = licence_of(models.resolve(base).licence)
        assert licence.known and (licence.id != "other" or (licence.name and str(licence.link).startswith("https://")))
        assert licence.commercial is ("non-commercial" not in str(models.resolve(base).licence))
    for source in SOURCES.values():
        if source.hub_id is not None or source.name == "samples":
            assert licence_of(source.licence).known, source.name
        else:
            assert licence_of(source.licence) == UNKNOWN, source.name


@pytest.mark.parametrize("text", [None, "", "unknown", "the user's own", "the model's own answers"])
def test_what_is_no_licence_is_not_known(text: str | None) -> None:
    assert licence_of(text) == UNKNOWN and UNKNOWN.commercial is None
