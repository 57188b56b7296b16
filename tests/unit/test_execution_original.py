"""A test that runs on a mutant finds nothing of the code as it was: it cannot compare the two."""

import pytest

from lowvram_ft.execution import judge
from lowvram_ft.execution.mutants import find_mutants

CODE = "def area(width, height):\n    if width < 0:\n        return 0\n    return width * height\n"

ORACLES = {
    "the file": "    text = open(solution.__file__).read()\n",
    "the loader": "    text = solution.__loader__.get_source('solution')\n",
    "linecache": "    import linecache\n    text = ''.join(linecache.getlines(solution.__file__))\n",
    "inspect": "    import inspect\n    text = inspect.getsource(solution)\n",
    "the import hook": (
        "    import sys\n    hook = next(h for h in sys.meta_path if hasattr(h, 'texts'))\n"
        "    text = hook.texts['solution']\n"
    ),
}
"""Ways to come by a text of the code."""

COMPARES = """\
import solution


def test_it_is_what_its_own_text_says():
{oracle}    known = {{}}
    exec(text, known)
    for width in (-1, 0, 1, 3):
        assert solution.area(width, 2) == known["area"](width, 2)
"""

LOOKS_EVERYWHERE = """\
import gc
import solution

HEAD, TAIL = "    return width ", "* height"


def everything():
    seen = set()
    todo = [*gc.get_objects(), __builtins__, solution]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (str, bytes)):
            yield thing if isinstance(thing, str) else thing.decode("latin-1")
        elif type(thing).__name__ == "frame":
            todo += [thing.f_locals, thing.f_back]
        elif type(thing).__name__ == "traceback":
            todo.append(thing.tb_frame)
        else:
            todo += gc.get_referents(thing)


def has_line(text):
    return any(part.startswith(TAIL) for part in text.split(HEAD)[1:])


def test_the_line_is_somewhere():
    found = [has_line(text) for text in everything()]
    assert solution.area(2, 3) != 99 and any(found)
"""

TELLS_ITS_NUMBER = "import os\nfrom solution import area\n\n\ndef test_a():\n    assert area(2, 3) == os.getpid()\n"
COUNTS_RUNS = """\
import os
from solution import area


def test_a():
    assert area(2, 3) != 99 and os.getpid() <= {most}
"""


@pytest.mark.parametrize("name", ORACLES)
def test_the_text_that_a_test_finds_is_that_of_the_mutant(name):
    found = judge(CODE, "solution", COMPARES.format(oracle=ORACLES[name]))
    assert found.verdict.all_passed
    assert found.mutation.total > 5
    crashing = [mutant.diff for mutant in found.mutation.mutants if mutant.outcome in ("killed", "timeout")]
    assert not crashing


def test_nothing_in_the_memory_of_a_mutant_holds_the_line_that_was_changed():
    edits = find_mutants(CODE)
    asked = [[place for place, edit in enumerate(edits) if edit.line == line][:2] for line in (2, 4)]
    found = judge(CODE, "solution", LOOKS_EVERYWHERE, only=[*asked[0], *asked[1]])
    assert found.verdict.all_passed
    outcomes = [{found.mutation.mutants[place].outcome for place in places} for places in asked]
    # the text of every other mutant has the line: there, the test finds it
    assert outcomes == [{"survived"}, {"killed"}]


def test_a_test_that_hangs_on_how_often_it_ran_finds_nothing():
    passed = 0
    for more in (4, 6, 8):  # the first sessions are below the bound, mutants are above it
        said = judge(CODE, "solution", TELLS_ITS_NUMBER).verdict.results[0].message
        most = int(said.partition("==")[2].split()[0]) + more
        found = judge(CODE, "solution", COUNTS_RUNS.format(most=most))
        if found.verdict.all_passed:
            passed += 1
            assert (found.mutation.killed, found.mutation.timed_out) == (0, 0)
    assert passed, "no server ran two files in a row"
