"""One attempt after the other: what is learnt, what decides, what a kill leaves, what forgetting removes."""

import json
from functools import partial
from pathlib import Path

import pytest

from lowvram_ft.errors import DataError, RunDirectoryError, UsageError
from lowvram_ft.improve import consent, registry
from lowvram_ft.improve.attempt import Settings, current
from lowvram_ft.improve.begin import register
from lowvram_ft.improve.forget import forget
from lowvram_ft.improve.home import Home
from lowvram_ft.improve.ledger import Ledger
from lowvram_ft.improve.material import choose
from lowvram_ft.improve.memory import read_memory
from lowvram_ft.improve.show import listing
from lowvram_ft.improve.work import improve, plan, roll_back
from lowvram_ft.inference.in_use import read_in_use
from lowvram_ft.run_dir import write_json
from tests.improve_home import (
    QUIET,
    Steps,
    answer,
    code_for,
    log,
    log_trace,
    make_home,
    model_files,
    modules,
)

SETTINGS = Settings()


def only_new(text, tasks):
    """The one in use solves nothing, a new one all."""
    return {f"{t.suite}/{t.id}": "after" in text for t in tasks}


def both_alike(text, tasks):
    return {f"{t.suite}/{t.id}": bool(place % 2) for place, t in enumerate(tasks)}


def test_a_better_model_replaces_the_one_in_use_and_the_one_before_stays(tmp_path):
    home, steps = make_home(tmp_path), Steps(only_new)
    found = improve(home, SETTINGS, steps.craft(), QUIET)
    assert (found["status"], found["generation"], found["gained"], found["k"]) == ("adopted", 1, 20, 1)
    assert steps.done == ["pair", "train", "solve", "solve"]
    used = registry.in_use(home)
    assert used.gguf.read_text() == f"gguf of model after {home.models}/0/adapter seed 0"
    assert used.facts["repositories"] == {"shop": 6} and len(used.facts["trained"]) == 6
    assert not home.work.exists()
    assert roll_back(home).gguf.read_text() == "gguf of model 0"


def test_an_equal_model_is_not_used_and_nothing_is_tried_again_before_something_is_new(tmp_path):
    home, steps = make_home(tmp_path), Steps(both_alike)
    assert improve(home, SETTINGS, steps.craft(), QUIET)["status"] == "not better"
    assert registry.in_use(home).number == 0 and len(registry.generations(home)) == 1
    done = len(steps.done)
    found = improve(home, SETTINGS, steps.craft(), QUIET)
    assert found["status"] == "nothing to do" and "nothing is new" in found["reason"]
    assert len(steps.done) == done
    again = improve(home, Settings(again=True), steps.craft(), QUIET)
    assert (again["k"], steps.recipes[-1].final.train.seed) == (2, 1)
    log(home, "shop", modules("shop", False, 7)[-1], answer(code_for(77)))
    assert improve(home, SETTINGS, steps.craft(), QUIET)["k"] == 3


def test_the_stages_are_traces_and_answers_from_the_adapter_in_use(tmp_path):
    home, steps = make_home(tmp_path), Steps(both_alike)
    module = modules("shop", False, 1)[0]
    log_trace(home, "shop", module, code_for(500))
    improve(home, Settings(overrides=("train.max_steps=2",)), steps.craft(), QUIET)
    (resolved,) = steps.recipes
    traces, answers = (stage.recipe for stage in resolved.stages)
    assert (traces.train.method, traces.data.source, traces.train.max_steps) == ("sft", "failure_traces", 2)
    assert (answers.train.method, answers.preference.pairs) == ("dpo", str(home.work / "pairs"))
    assert traces.model.adapter == str(home.models / "0" / "adapter")


def test_what_is_held_out_is_never_learnt_from_nor_is_its_near_duplicate(tmp_path):
    home, steps = make_home(tmp_path), Steps(both_alike)
    held_out, learnt = modules("shop", True, 30), modules("shop", False, 30)
    near = code_for(1003).replace("total = 0", "total = 1", 1).replace("work_1003", "renamed")
    assert near != code_for(1003)
    log(home, "shop", learnt[20], answer(code_for(1000)))  # the same code as a held-out module's
    log(home, "shop", learnt[21], answer(near))
    log(home, "shop", learnt[22], answer(code_for(1005) + "\n\n" + code_for(901)))  # as one of two functions
    log_trace(home, "shop", learnt[23], code_for(1001))
    log_trace(home, "shop", held_out[2], code_for(902))
    log_trace(home, "shop", learnt[24], code_for(903))
    improve(home, SETTINGS, steps.craft(), QUIET)
    (material,) = steps.materials
    assert {task.code for task in steps.tasks} == {code_for(1000 + place) for place in range(20)}
    assert {task.code for task in material.tasks} == {code_for(place) for place in range(6)}
    assert [trace["code"] for trace in material.traces] == [code_for(903)]
    assert material.left_out == {"near a held-out task": 4}


def test_held_out_code_near_what_was_trained_on_before_does_not_judge(tmp_path):
    home, steps = make_home(tmp_path, held_out=10), Steps(only_new)
    assert improve(home, SETTINGS, steps.craft(), QUIET)["status"] == "adopted"
    held_out = modules("shop", True, 14)
    log(home, "shop", held_out[10], answer(code_for(2)))  # moved there after it was trained on
    log(home, "shop", held_out[11], answer(code_for(2100)))
    log(home, "shop", modules("shop", False, 9)[-1], answer(code_for(88)))
    improve(home, SETTINGS, steps.craft(), QUIET)
    codes = {task.code for task in steps.tasks}
    assert code_for(2) not in codes and code_for(2100) in codes


def test_evaluation_tasks_and_their_near_duplicates_are_refused(tmp_path):
    from lowvram_ft.data.evaluation_code import humaneval_problems
    from lowvram_ft.data.sources.samples import held_out_rows
    from lowvram_ft.improve.craft import own_craft

    home, steps = make_home(tmp_path), Steps(both_alike)
    problem = humaneval_problems()[10]
    planted = [problem["prompt"] + problem["canonical_solution"], next(iter(held_out_rows())).code]
    for place, code in enumerate(planted):
        log(home, "shop", modules("shop", False, 20)[10 + place], answer(code))
    craft = steps.craft()
    improve(home, SETTINGS, type(craft)(own_craft().forbidden, craft.runnable, craft.pair, craft.train, craft.solves),
            QUIET)  # fmt: skip
    (material,) = steps.materials
    assert material.left_out == {"near an evaluation task": 2}
    assert not {task.code for task in material.tasks} & set(planted)


def test_nothing_is_learnt_of_a_contradiction_of_fixtures_or_of_what_fails_when_mended(tmp_path):
    home, steps = make_home(tmp_path, learnt=5), Steps(both_alike)
    names = modules("shop", False, 20)
    log(home, "shop", names[10], answer(code_for(50), fate="contradicts"))
    log(home, "shop", names[11], answer(code_for(51), disputes=True, text="def test_bug():\n    assert 9\n"))
    log_trace(home, "shop", names[11], code_for(51), fixed="def test_bug():\n    assert 9\n")
    log(home, "shop", names[12], answer(code_for(52), prompt="with fixtures"))
    log(home, "shop", names[13], answer(code_for(53), turn=1, fate="fails", prompt="mend"))
    log(home, "shop", names[14], answer(code_for(54), turn=1, prompt="mend"))
    improve(home, SETTINGS, steps.craft(), QUIET)
    (material,) = steps.materials
    assert {task.code for task in material.tasks} == {code_for(54), *(code_for(place) for place in range(5))}
    assert material.traces == ()
    assert material.left_out == {
        "about a contradiction, which may be a bug of the code": 3,
        "needs fixtures of its project": 1,
    }


def test_too_little_is_told_and_nothing_is_begun(tmp_path):
    for folder, held_out, learnt, words in (
        ("a", 20, 1, "too few to learn from"),
        ("b", 3, 6, "3 held-out tasks cannot"),
    ):
        home, steps = make_home(tmp_path / folder, held_out=held_out, learnt=learnt), Steps(only_new)
        found = improve(home, SETTINGS, steps.craft(), QUIET)
        assert found["status"] == "nothing to do" and words in found["reason"]
        assert not home.work.exists() and not home.ledger.exists() and not steps.done
        assert plan(home, SETTINGS, steps.craft())["reason"] == found["reason"]
    empty = Home(tmp_path / "c", tmp_path / "cache")
    with pytest.raises(UsageError, match="begin with one that was trained: lowvram-ft improve --from RUN"):
        improve(empty, SETTINGS, steps.craft(), QUIET)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_writes_nothing(tmp_path):
    home, steps = make_home(tmp_path), Steps(only_new)
    before = files(tmp_path)
    found = plan(home, SETTINGS, steps.craft())
    assert (found["status"], found["attempt"], found["level"]) == ("would train", 1, 0.025)
    assert (found["answers"], found["held_out"]) == (6, 20)
    assert files(tmp_path) == before and not steps.done


def test_a_row_that_cannot_be_trained_on_ends_the_attempt_for_good(tmp_path):
    home, steps = make_home(tmp_path), Steps(only_new)
    craft = steps.craft()

    def refused(*_):
        raise DataError("x: no row is left to train on")

    bad = type(craft)(craft.forbidden, craft.runnable, craft.pair, refused, craft.solves)
    with pytest.raises(DataError, match="no row is left"):
        improve(home, SETTINGS, bad, QUIET)
    assert current(home) is None
    assert "nothing is new" in improve(home, SETTINGS, craft, QUIET)["reason"]


class Killed(BaseException):
    pass


def interrupted(steps: Steps, at: int):
    """The steps, of which the so many-th ends the process after it was done, as far as its files go."""
    craft, count = steps.craft(), 0

    def after(step):
        def run(*arguments):
            nonlocal count
            found = step(*arguments)
            count += 1
            if count == at:
                raise Killed
            return found

        return run

    return type(craft)(craft.forbidden, craft.runnable, after(craft.pair), after(craft.train), after(craft.solves))


def test_killed_after_any_step_it_goes_on_with_the_same_and_counts_once(tmp_path):
    for at in range(1, 5):
        home, steps = make_home(tmp_path / str(at)), Steps(only_new)
        with pytest.raises(Killed):
            improve(home, SETTINGS, interrupted(steps, at), QUIET)
        log(home, "shop", modules("shop", False, 9)[-1], answer(code_for(90)))  # comes too late for this attempt
        found = improve(home, SETTINGS, steps.craft(), QUIET)
        assert (found["status"], found["k"], found["generation"]) == ("adopted", 1, 1)
        assert {len(material.tasks) for material in steps.materials} == {6}
        assert steps.done.count("pair") == 1
        # killed before its result was noted, it is taken up: the run directory knows how far it was
        assert steps.done.count("train") == (2 if at == 2 else 1)
        assert [line["event"] for line in Ledger(home.ledger).lines()] == ["begun", "ended"]


def test_a_kill_does_not_make_an_attempt_uncounted(tmp_path):
    home, steps = make_home(tmp_path), Steps(both_alike)
    with pytest.raises(Killed):
        improve(home, SETTINGS, interrupted(steps, 4), QUIET)
    found = improve(home, Settings(method="rft"), steps.craft(), QUIET)  # other settings: the first is dropped
    assert found["k"] == 2
    assert [line.get("reason") for line in Ledger(home.ledger).lines() if line["event"] == "ended"] == [
        "other settings were asked for",
        None,
    ]


def test_sigkill_at_any_write_leaves_a_whole_model_in_use_and_the_next_call_ends_the_attempt(tmp_path):
    from tests.unit.test_improve_registry import killed_at

    outcomes = set()
    for call in range(0, 400, 14):
        home, steps = make_home(tmp_path / str(call), held_out=8, learnt=4), Steps(only_new)
        killed = killed_at(call, partial(improve, home, SETTINGS, steps.craft(), QUIET))
        used = registry.in_use(home)
        registry.require_whole(used)
        found = improve(home, SETTINGS, steps.craft(), QUIET)
        assert registry.in_use(home).number == 1
        registry.require_whole(registry.in_use(home))
        begun = [line for line in Ledger(home.ledger).lines() if line["event"] == "begun"]
        assert len(begun) == 1 and begun[0]["k"] == 1
        assert found["status"] == "adopted" or (used.number == 1 and "nothing is new" in found["reason"])
        outcomes.add((killed, used.number))
        if not killed:
            break
    assert outcomes == {(True, 0), (True, 1), (False, 1)}


def test_an_attempt_that_was_gone_back_from_in_its_middle_is_not_adopted_again(tmp_path, monkeypatch):
    home, steps = make_home(tmp_path), Steps(only_new)

    def killed(self, attempt, facts):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end", killed)
        with pytest.raises(Killed):
            improve(home, SETTINGS, steps.craft(), QUIET)
    assert registry.in_use(home).number == 1
    assert roll_back(home).number == 0
    found = improve(home, SETTINGS, steps.craft(), QUIET)
    assert registry.in_use(home).number == 0 and "nothing is new" in found["reason"]
    assert read_in_use(home.root).adopted == (0, 1)


def test_a_second_improve_waits_for_no_one(tmp_path):
    home, steps = make_home(tmp_path), Steps(only_new)
    with home.alone(), pytest.raises(RunDirectoryError, match="another improve is at work"):
        improve(home, SETTINGS, steps.craft(), QUIET)


def holding(folder: Path, *words: str) -> list[str]:
    """Files that hold one of the words, or are named so."""
    found = files(folder).items()
    return [name for name, data in found if any(word in name or word.encode() in data for word in words)]


@pytest.fixture
def two_repositories(tmp_path):
    """Generation 1 learnt from shop alone, 2 from shop and secret; 2 is in use, and an attempt is under way."""
    home, steps = make_home(tmp_path), Steps(only_new)
    improve(home, SETTINGS, steps.craft(), QUIET)
    codes = [code_for(number).replace("work_", "planted_") for number in range(300, 306)]
    for module, code in zip(modules("secret", False, 6), codes, strict=True):
        log(home, "secret", module, answer(code))
        log_trace(home, "secret", module, code)

    def even_better(text, tasks):
        return {f"{t.suite}/{t.id}": "models/1" in text for t in tasks}

    steps.solves = even_better
    assert improve(home, SETTINGS, steps.craft(), QUIET)["generation"] == 2
    with pytest.raises(Killed):
        improve(home, Settings(again=True), interrupted(steps, 2), QUIET)
    for name in ("judged.jsonl", "held_out.jsonl"):
        (home.root / name).write_text(json.dumps({"text": codes[0]}) + "\n")
    prepared = home.cache / "prepared" / "one"
    prepared.mkdir(parents=True)
    (prepared / "README.md").write_text(f"from {home.root}/work/traces.jsonl")
    (prepared / "train.arrow").write_text(codes[0])
    other = home.cache / "prepared" / "other"
    other.mkdir()
    (other / "README.md").write_text("from elsewhere")
    journal = home.cache / "testgen"
    journal.mkdir()
    (journal / "a.json").write_text(json.dumps({"repository": "secret", "outcome": codes[0]}))
    (journal / "b.json").write_text(json.dumps({"repository": "shop", "outcome": "x"}))
    return home


def test_forgetting_removes_every_trace_of_a_repository_and_what_learnt_from_it(two_repositories):
    home = two_repositories
    assert len(holding(home.root, "planted_", "secret")) >= 5 and len(holding(home.cache, "planted_")) == 2
    seen = files(home.root)
    found = forget(home, "secret", dry_run=True)
    assert found == {"answers": 6, "traces": 6, "generations": [2], "in_use": 1} and files(home.root) == seen
    assert forget(home, "secret") == found
    assert holding(home.root, "planted_", "secret") == [] and holding(home.cache, "planted_", "secret") == []
    assert registry.in_use(home).number == 1
    assert len(list(home.cache.glob("testgen/*.json"))) == 1 and (home.cache / "prepared" / "other").is_dir()
    assert len(holding(home.root, "work_")) == 1  # the other repository's log is as it was
    assert (home.answers.stat().st_mode & 0o777) == 0o600
    with pytest.raises(UsageError, match="nothing is kept of it; there is: shop"):
        forget(home, "secret")


def test_what_a_kill_left_in_the_cache_is_forgotten_as_well(tmp_path):
    home = make_home(tmp_path)
    prepared = home.cache / "prepared" / "one"
    prepared.mkdir(parents=True)
    (prepared / "README.md").write_text(f"from {home.root}/work/traces.jsonl")
    forget(home, "shop")
    assert not prepared.exists()


def test_a_repository_can_be_named_by_its_folder_and_all_be_forgotten(two_repositories):
    home = two_repositories
    assert forget(home, "/src/secret", dry_run=True)["generations"] == [2]
    found = forget(home, None)
    assert (found["generations"], found["in_use"]) == ([1, 2], 0)
    assert holding(home.root, "planted_", "secret", "work_", "shop") == []
    assert registry.in_use(home).gguf.read_text() == "gguf of model 0"


def test_the_ledger_holds_no_code_and_no_name(two_repositories):
    text = two_repositories.ledger.read_text()
    assert not any(word in text for word in ("planted_", "work_", "secret", "shop", "pkg"))


def test_the_list_says_what_is_there_and_what_learnt_from_it(two_repositories):
    found = listing(two_repositories)
    assert found["repositories"]["secret"] == {
        "answers": 6, "kept": 6, "traces": 6, "first": "2026-01-02", "last": "2026-01-03", "generations": [2],
    }  # fmt: skip
    assert found["repositories"]["shop"]["generations"] == [1, 2]
    assert (found["in_use"], found["before"], found["consent"]) == (2, 1, False)
    assert [one["generation"] for one in found["generations"]] == [0, 1, 2]
    assert found["under_way"].startswith("3-") and len(found["attempts"]) == 2


def test_consent_is_asked_for_once_and_who_declines_finds_nothing_written(tmp_path):
    home, asked = Home(tmp_path / "data", tmp_path / "cache"), []

    def ask(answer):
        return lambda text: asked.append(text) or answer

    assert not consent.require(home, yes=False, ask=ask(False))
    assert not home.root.exists()
    with pytest.raises(UsageError, match=r"needs your consent once .*; give --yes, or run it in a terminal"):
        consent.require(home, yes=False, ask=None)
    assert not home.root.exists()
    assert consent.require(home, yes=False, ask=ask(True))
    assert consent.require(home, yes=False, ask=None)
    assert len(asked) == 2 and "on this machine" in asked[0] and "--forget" in asked[0]
    assert consent.require(Home(tmp_path / "other", tmp_path), yes=True, ask=None)


@pytest.fixture
def run(tmp_path):
    """A finished run directory, as far as its files go."""
    from lowvram_ft.recipe import ExportSection, ModelSection, Recipe, TrainSection

    folder = tmp_path / "runs" / "mine"
    model = model_files(folder / "made", "a run")
    (folder / "stages" / "last").mkdir(parents=True)
    model.adapter.rename(folder / "stages" / "last" / "adapter")
    (folder / "export").mkdir()
    model.gguf.rename(folder / "export" / "mine-F16.gguf")
    recipe = Recipe(model=ModelSection(base="smollm2-135m"), train=TrainSection(max_steps=7, max_length=640),
                    export=ExportSection(quant="F16", ollama="mine"))  # fmt: skip
    stages = [{"name": name, "recipe": recipe.model_dump(mode="json")} for name in ("first", "last")]
    steps = {"plan": {"base": "smollm2-135m"}, "export": {"gguf": "runs/mine/export/mine-F16.gguf"}}
    write_json(folder / "run.json", {"schema_version": 1, "recipe": {"stages": stages}, "steps": steps})
    return folder


def test_the_last_model_of_a_run_is_registered_and_its_recipe_goes_on(tmp_path, run):
    home = Home(tmp_path / "data", tmp_path / "cache")
    assert register(home, run, None, QUIET).number == 0
    for file in (run / "export" / "mine-F16.gguf", run / "stages" / "last" / "adapter" / "adapter_model.safetensors"):
        file.write_text("changed afterwards")
    used = registry.in_use(home)
    registry.require_whole(used)
    assert used.gguf.read_text() == "gguf of a run"
    for side in (True, False):
        for place, module in enumerate(modules("shop", side, 8)):
            log(home, "shop", module, answer(code_for(place + 1000 * side)))
    steps = Steps(both_alike)
    improve(home, Settings(overrides=("train.max_length=512",)), steps.craft(), QUIET)
    final = steps.recipes[0].final
    assert (final.model.base, final.lora.r, final.lora.lora_alpha) == ("smollm2-135m", 8, 16)
    assert (final.train.max_steps, final.train.max_length) == (None, 512)
    assert (final.export.quant, final.export.ollama) == ("F16", None)
    with pytest.raises(UsageError, match="a run knows its own"):
        register(home, run, "smollm2-135m", QUIET)
    assert register(home, run, None, QUIET).number == 2  # 1 was the attempt's
    assert roll_back(home).number == 0


def test_a_run_that_was_not_exported_is_refused(tmp_path, run):
    home = Home(tmp_path / "data", tmp_path / "cache")
    data = json.loads((run / "run.json").read_text())
    del data["steps"]["export"]
    write_json(run / "run.json", data)
    with pytest.raises(RunDirectoryError, match="has not been trained and exported"):
        register(home, run, None, QUIET)
    assert registry.in_use(home) is None and registry.generations(home) == []


def test_no_held_out_task_is_answered_or_judged_twice_by_one_model(tmp_path, monkeypatch):
    from lowvram_ft.improve import craft as craft_module
    from lowvram_ft.improve.craft import own_craft, tasks_of
    from lowvram_ft.improve.material import HeldOut
    from lowvram_ft.recipe import EvalSection, Recipe
    from tests.scripted_model import ByPrompt

    good = "from solution import half\n\n\ndef test_half():\n    assert half(4) == 2\n"
    model, opened = ByPrompt({"def half": good, "def other": "no test"}), []
    monkeypatch.setattr(craft_module, "open_model", lambda gguf, n_ctx: opened.append(gguf) or model)
    codes = (
        "def half(n):\n    return n // 2\n",
        "def other(n):\n    return n + 1\n",
        "def half(n):\n    return n / 2\n",
    )
    held_out = [HeldOut(f"t{place}", "g", code) for place, code in enumerate(codes)]
    gguf = model_files(tmp_path, "m").gguf
    recipe = Recipe(eval=EvalSection(samples_per_task=3, max_new_tokens=32))
    solves = own_craft().solves
    first = solves(gguf, tasks_of(held_out[:2], (), None), recipe, tmp_path / "held_out.jsonl", QUIET)
    assert first == {"own/t0": True, "own/t1": False} and len(model.prompts) == 2
    assert solves(gguf, tasks_of(held_out[:2], (), None), recipe, tmp_path / "held_out.jsonl", QUIET) == first
    assert len(opened) == 1 and len(model.prompts) == 2
    gguf.write_text("another model")
    solves(gguf, tasks_of(held_out, (), None), recipe, tmp_path / "held_out.jsonl", QUIET)
    assert len(opened) == 2 and len(model.prompts) == 5


def test_what_passes_in_its_project_alone_is_neither_winner_nor_loser(tmp_path):
    from lowvram_ft.improve.pairing import pair
    from lowvram_ft.recipe import PreferenceSection

    home = make_home(tmp_path, learnt=0)
    code = "def half(n):\n    if n < 0:\n        return 0\n    return n // 2\n"
    module = modules("shop", False, 1)[0]
    good = "from solution import half\n\n\ndef test_half():\n    assert half(4) == 2\n    assert half(-3) == 0\n"
    broken = good.replace("half(4)", "half(four)")
    log(home, "shop", module, answer(code, good))
    log(home, "shop", module, answer(code, broken, sample=1, fate="fails"))
    log(home, "shop", module, answer(code, good.replace("half(4)", "half(in_the_project())"), sample=2))
    steps = Steps(both_alike)
    material = choose(read_memory(home), steps.craft().forbidden(()), [])
    section = PreferenceSection(parts=False, max_length_bias=4.0)
    counts = pair(material, section, "dpo", tmp_path / "pairs", home.judged, QUIET)
    assert (counts["pairs"], counts["winners"], counts["needs_project"], counts["reason"]) == (1, 1, 1, None)
    (record,) = [json.loads(line) for line in (tmp_path / "pairs" / "pairs.jsonl").read_text().splitlines()]
    assert (record["chosen"], record["rejected"]) == (good.strip(), broken.strip())
    lines = len(home.judged.read_text().splitlines())
    assert pair(material, section, "dpo", tmp_path / "again", home.judged, QUIET) == counts
    assert len(home.judged.read_text().splitlines()) == lines
    strict = PreferenceSection(parts=False, winning_score=1.0, max_length_bias=1.0)
    assert "tasks" in pair(material, strict, "dpo", tmp_path / "none", home.judged, QUIET)["reason"]
