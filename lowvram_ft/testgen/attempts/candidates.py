"""Have a model write tests for parts of a module, run them, and let it mend those that fail.

A failing test is asked about with its file and pytest's output, in the prompt that failure traces are trained with.
What comes back is held against what was sent, so that no test is bent to the code:

- A test that is *broken* (it raises in its own lines: a name that is not defined, a fixture that does not exist, a call
  with the wrong arguments; or its file does not parse, or cannot be imported) may come back in any form that has as
  many checks. A value that it expected of a call must still be expected where that call is still made.
- A test that the code *contradicts* (an assertion that does not hold, an exception that was expected and did not come,
  one that the code raised) may come back only with every assertion that it had, in their order, under the same
  conditions, about the same values, with no part of the code replaced by something else. Set-up that the assertions
  say nothing of may change. Else it is bent: it is dropped, and the test as it first was is reported as a
  `Contradiction`.
- Beside a contradiction, no new test about the same function is taken from a refinement. One from another sample is:
  it is what the model said first, and the contradiction is then `disputed`.
- Of a parametrized test, the cases that pass stay; each that does not is a contradiction of its own.
- What passed stays as it was, whatever a refinement made of it.

A contradiction ends only where a refinement holds all that the test said, and passes. This is strict: a repair that
changes the values that a test is about is turned down, though they may have been wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from lowvram_ft.data.row import build_prompt
from lowvram_ft.errors import PromptTooLong
from lowvram_ft.execution import run_many
from lowvram_ft.inference import Completion, Generator, Sampling
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.testgen.attempts.answers import Answered
from lowvram_ft.testgen.attempts.assertions import Check
from lowvram_ft.testgen.attempts.examine import examine, holds_alone
from lowvram_ft.testgen.attempts.findings import Claim, Contradiction, Dropped, Examined, Memory
from lowvram_ft.testgen.attempts.traces import Trace
from lowvram_ft.testgen.subject import Subject, Unit

TOO_LONG = "prompt too long: it and the answer do not fit into the model's context"


@dataclass(frozen=True)
class Effort:
    """How hard to try.

    Attributes:
        refinements: times that the model may mend a file that fails.
        samples: further answers for a unit of which the first was not enough.
        max_new_tokens: most tokens of an answer.
        temperature: of the samples; the first answer is greedy.
        seed: of the sampler.
    """

    refinements: int = 2
    samples: int = 3
    max_new_tokens: int = 512
    temperature: float = 0.7
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What came of one unit.

    Attributes:
        unit: the unit.
        texts: test files that import the real module, of tests that all pass, each file run as a whole.
        contradictions: tests that the code contradicts.
        dropped: other tests that are not kept.
        traces: of refinements that succeeded.
        answers: how many answers the model gave.
        answered: those of them that were run.
        claims: every contradiction that one of them met, those that a refinement ended among them.
    """

    unit: Unit
    texts: tuple[str, ...]
    contradictions: tuple[Contradiction, ...]
    dropped: tuple[Dropped, ...]
    traces: tuple[Trace, ...]
    answers: int
    answered: tuple[Answered, ...] = ()
    claims: tuple[Claim, ...] = ()


@dataclass
class _Chain:
    """A first answer and its refinements."""

    prompt: str | None
    test: str | None = None
    memory: Memory = field(default_factory=Memory)
    claims: list[Claim] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


@dataclass(frozen=True)
class _Answer:
    """An answer that is to be run."""

    work: _Work
    prompt: str
    test: str
    answer: Completion


@dataclass
class _Work:
    """One unit while it is worked on."""

    unit: Unit
    chains: list[_Chain] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    answers: int = 0
    answered: list[Answered] = field(default_factory=list)
    met: list[Claim] = field(default_factory=list)
    too_long: bool = False


def write_candidates(
    generator: Generator,
    subject: Subject,
    units: Sequence[Unit],
    effort: Effort,
    *,
    enough: Callable[[Unit, Sequence[str]], bool],
    on_answer: Callable[[Unit], None] | None = None,
) -> list[Found]:
    """Write tests for every unit of a module, all units side by side.

    Each unit gets one greedy answer and its refinements, then sampled ones with theirs until ``enough`` says so.

    Args:
        generator: the model.
        subject: the module.
        units: its parts.
        effort: how hard to try.
        enough: gets a unit and its test files so far; whether they do.
        on_answer: called for each answer, before it is run.

    Returns:
        One for each unit, in their order.

    Raises:
        GenerationError: the model fails. A unit whose prompt is too long is none: its `Found` says so.
        MachineError: the processes that run tests cannot be started.
    """
    works = [_Work(unit) for unit in units]
    waiting = works
    for sample in range(effort.samples + 1):
        if sample:
            waiting = [work for work in waiting if not work.too_long and not enough(work.unit, tuple(work.texts))]
        if waiting:
            _round(generator, subject, waiting, effort, sample, on_answer)
    traces = list(dict.fromkeys(trace for work in works for trace in work.traces))
    alone = {trace for trace, holds in zip(traces, run_many(holds_alone, traces), strict=True) if holds}
    return [_found(work, alone) for work in works]


def _round(
    generator: Generator,
    subject: Subject,
    works: Sequence[_Work],
    effort: Effort,
    sample: int,
    on_answer: Callable[[Unit], None] | None,
) -> None:
    """One answer for each unit, and its refinements."""
    for work in works:
        work.chains.append(_Chain(build_prompt(work.unit.code, existing=subject.fixtures)))
    sampling = Sampling(temperature=effort.temperature if sample else 0.0, max_new_tokens=effort.max_new_tokens)
    for turn in range(effort.refinements + 1):
        open_ones = [work for work in works if work.chains[-1].prompt is not None]
        if not open_ones:
            return
        seed = effort.seed + sample * (effort.refinements + 1) + turn
        prompts = [work.chains[-1].prompt or "" for work in open_ones]
        answers = _answers(generator, prompts, dataclasses.replace(sampling, seed=seed))
        to_run: list[_Answer] = []
        for work, answer in zip(open_ones, answers, strict=True):
            if answer is None:
                work.too_long = work.too_long or not turn
                work.dropped.append(Dropped("", TOO_LONG if not turn else f"refinement: {TOO_LONG}"))
                work.chains[-1].prompt = None
                continue
            work.answers += 1
            if on_answer is not None:
                on_answer(work.unit)
            test = extract_test(answer.text, cut_off=answer.finish == "length")
            if test != work.chains[-1].test:
                to_run.append(_Answer(work, work.chains[-1].prompt or "", test, answer))
            elif not sample:  # greedy, and it repeats itself: nothing else can come
                work.chains[-1].prompt = None

        def run(job: _Answer) -> Examined:
            return examine(subject, job.work.unit, job.test, job.work.chains[-1].memory)

        for job, found in zip(to_run, run_many(run, to_run), strict=True):
            job.work.answered.append(_answered(job, found, sample, turn))
            _take(job.work, job.test, found)


def _answers(generator: Generator, prompts: Sequence[str], sampling: Sampling) -> list[Completion | None]:
    """One answer for each prompt; None for one that does not fit, which takes none of the others with it."""
    try:
        return [row[0] for row in generator.generate(prompts, sampling)]
    except PromptTooLong:
        if len(prompts) == 1:
            return [None]
    half = len(prompts) // 2  # halves, so that most prompts are still answered side by side
    return [*_answers(generator, prompts[:half], sampling), *_answers(generator, prompts[half:], sampling)]


def _answered(job: _Answer, found: Examined, sample: int, turn: int) -> Answered:
    unit, answer = job.work.unit, job.answer
    checks = tuple((check.subject, check.key) for check in found.checks)
    facts = (answer.n_tokens, answer.finish, round(answer.seconds, 3))
    return Answered(unit.name, unit.code, job.prompt, job.test, sample, turn, found.fate, found.text, checks, *facts)


def _take(work: _Work, test: str, found: Examined) -> None:
    """Note what an answer came to."""
    chain = work.chains[-1]
    chain.test, chain.prompt, chain.memory = test, found.prompt, found.memory
    if found.text and found.text not in work.texts:
        work.texts.append(found.text)
    chain.checks += found.checks
    chain.claims = [claim for claim in chain.claims if _function(claim) not in found.mended] + list(found.claims)
    work.met += found.claims
    work.dropped += [one for one in found.dropped if one not in work.dropped]
    if found.trace is not None:
        work.traces.append(found.trace)


def _found(work: _Work, traces: Collection[Trace]) -> Found:
    contradictions: dict[str, Contradiction] = {}
    for chain in work.chains:
        for claim in chain.claims:
            others = [check for other in work.chains if other is not chain for check in other.checks]
            disputed = any(check.subject == claim.subject and check.key != claim.key for check in others)
            before = contradictions.get(claim.key, claim.contradiction)
            disputed = before.disputed or (disputed and bool(claim.subject))
            contradictions[claim.key] = dataclasses.replace(before, disputed=disputed)
    return Found(
        work.unit,
        tuple(work.texts),
        tuple(contradictions.values()),
        tuple(work.dropped),
        tuple(trace for trace in dict.fromkeys(work.traces) if trace in traces),
        work.answers,
        tuple(work.answered),
        tuple(work.met),
    )


def _function(claim: Claim) -> str:
    return claim.contradiction.test.partition("[")[0]
