from __future__ import annotations

import pytest

from lowvram_ft.testgen.texts.unused_imports import without_unused_imports

USED = "\n\ndef test_a():\n    assert a\n"


@pytest.mark.parametrize(
    ("imports", "left"),
    [
        ("from m import a\n", "from m import a\n"),
        ("from m import a, b\n", "from m import a\n"),
        ("from m import (\n    b,\n    a as a,  # kept\n)\n", "from m import a as a\n"),
        ("from m import b as a, c\n", "from m import b as a\n"),
        ("import pytest\nfrom m import a\n", "from m import a\n"),
        ("import os, a\n", "import a\n"),
        ("import os.path\nfrom m import a\n", "from m import a\n"),
        ("import m.plugin\nfrom m import a\n", "import m.plugin\nfrom m import a\n"),
        ("from m import *\nfrom m import a\n", "from m import *\nfrom m import a\n"),
        ("from __future__ import annotations\nfrom m import a, b\n",
         "from __future__ import annotations\nfrom m import a\n"),
        ("from m import b\n\nx = 1\n", "x = 1\n"),
    ],
)  # fmt: skip
def test_names_that_nothing_speaks_of_go(imports: str, left: str):
    assert without_unused_imports(imports + USED) == left + USED


@pytest.mark.parametrize(
    "body",
    [
        "def test_x(fixture):\n    assert fixture\n",
        'def test_x(mocker):\n    mocker.patch("fixture.thing")\n    assert 1\n',
        "@fixture.mark\ndef test_x():\n    assert 1\n",
    ],
)
def test_what_is_spoken_of_in_any_way_stays(body: str):
    text = f"from m import fixture\n\n\n{body}"
    assert without_unused_imports(text) == text
