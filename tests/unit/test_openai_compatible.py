"""The back end for OpenAI-compatible URLs, against servers that misbehave in every way that is known."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.errors import GenerationError, LowvramError, ModelError, PromptTooLong, UsageError
from lowvram_ft.inference import Completion, Sampling
from lowvram_ft.inference.chat_answer import BrokenReplyError, EventStream, RefusedError, Reply, words_of
from lowvram_ft.inference.endpoint import KEY_VARIABLE, parse_endpoint
from lowvram_ft.inference.openai_compatible import OpenAICompatible, request_seed
from lowvram_ft.inference.retrying import Policy, retry_after_s
from tests.chat_servers import Behaviour, Request, Server, chunk, serving

QUICK = Policy(retries=3, backoff_s=0.01, timeout_s=30.0)
IMPATIENT = Policy(retries=3, backoff_s=0.01, timeout_s=1.0)
TEXT = "def test_a():\n    assert 1\n"
GREEDY = Sampling(max_new_tokens=64)
DONE = "data: [DONE]\n\n"


def good(request: Request) -> None:
    request.says(TEXT)


def ask(server: Server, n: int = 1, sampling: Sampling = GREEDY, policy: Policy = QUICK) -> list[Completion]:
    return OpenAICompatible(server.url, policy=policy).generate(["hello"], sampling, n)[0]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_an_answer_comes_with_its_counts_and_times() -> None:
    with serving(lambda request: request.says(TEXT, gap_s=0.02)) as server:
        began = time.perf_counter()
        found = ask(server)[0]
        took = time.perf_counter() - began
    assert (found.text, found.n_prompt_tokens, found.n_tokens, found.finish) == (TEXT, 7, 5, "stop")
    assert 0 < found.first_token_s < found.seconds <= took
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["model"], body["temperature"], body["max_tokens"], body["stream"]) == ("tiny", 0.0, 64, True)
    assert "min_p" not in body and "n" not in body
    assert body["repeat_penalty"] == body["repetition_penalty"] == 1.0


def test_sampling_is_passed_on_and_every_answer_has_a_seed_of_its_own() -> None:
    sampling = Sampling(temperature=0.7, min_p=0.1, max_new_tokens=9, seed=3)
    with serving(good) as server:
        model = OpenAICompatible(server.url, policy=QUICK)
        for _ in range(2):
            found = model.generate(["a", "b"], sampling, 2)
            assert [len(row) for row in found] == [2, 2]
    bodies = [request.body for request in server.requests]
    assert all((body["temperature"], body["min_p"], body["max_tokens"]) == (0.7, 0.1, 9) for body in bodies)
    second = [body for body in bodies if "n" not in body][2:]
    assert len({body["seed"] for body in second[-4:]}) == 4
    assert {body["seed"] for body in bodies} == {request_seed(3, p, i) for p in (0, 1) for i in (0, 1)}
    assert request_seed(3, 0, 1) != request_seed(4, 0, 1) and 0 <= request_seed(3, 0, 1) < 2**31


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('{"error": {"message": "no room", "code": "context_length_exceeded"}}', PromptTooLong),
        ('{"error": {"message": "no room", "type": "exceed_context_size_error"}}', PromptTooLong),
        ('{"error": {"message": "This model\'s maximum context length is 512 tokens"}}', PromptTooLong),
        ('{"error": {"message": "no such role"}}', GenerationError),
    ],
)
def test_a_prompt_that_does_not_fit_is_told_from_other_refusals(said: str, kind: type[GenerationError]) -> None:
    with serving(lambda request: request.answer(400, said)) as server, pytest.raises(GenerationError) as told:
        ask(server)
    assert type(told.value) is kind


def test_several_answers_are_asked_for_at_once_where_the_server_can() -> None:
    def several(request: Request) -> None:
        request.says(*["a b\n", "c d e\nf\n", "g\n"][: request.body.get("n", 1)])

    with serving(several) as server:
        found = ask(server, n=3, sampling=Sampling(temperature=1.0))
    assert [answer.text for answer in found] == ["a b\n", "c d e\nf\n", "g\n"]
    assert [answer.n_tokens for answer in found] == [2, 4, 2], "a share of the server's 8, by their pieces"
    assert len(server.requests) == 1 and server.requests[0].body["n"] == 3


@pytest.mark.parametrize(
    "refusal",
    [
        None,  # takes it, and gives one answer all the same, as Ollama and llama-cpp-python do
        '{"error": {"message": "at most one", "param": "n"}}',
        '{"detail": [{"loc": ["body", "n"], "msg": "extra inputs are not permitted"}]}',
    ],
)
def test_several_answers_are_asked_for_one_by_one_where_it_cannot(refusal: str | None) -> None:
    def single(request: Request) -> None:
        if refusal is not None and "n" in request.body:
            request.answer(400, refusal)
        else:
            request.says(f"answer {request.body['seed']}\n")

    with serving(single) as server:
        model = OpenAICompatible(server.url, policy=QUICK)
        found = model.generate(["a"], Sampling(temperature=1.0), 3)[0]
        assert len({answer.text for answer in found}) == 3
        n_before = len(server.requests)
        again = model.generate(["a"], Sampling(temperature=1.0), 3)[0]
    assert {answer.text for answer in again} == {answer.text for answer in found}
    assert len(server.requests) == n_before + 3 and model.left_out == {"n"}, "it is not tried again"


def test_parameters_that_a_server_does_not_know_are_left_out_and_named() -> None:
    unknown = ["min_p", "top_k", "repeat_penalty", "repetition_penalty", "stream_options"]

    def strict(request: Request) -> None:
        if "max_tokens" in request.body:
            request.answer(
                400, '{"error": {"message": "use \'max_completion_tokens\' instead", "param": "max_tokens"}}'
            )
        elif found := next((name for name in unknown if name in request.body), None):
            request.answer(400, json.dumps({"error": {"message": f"Unrecognized request argument supplied: {found}"}}))
        else:
            request.says(TEXT)

    with serving(strict) as server:
        model = OpenAICompatible(server.url, policy=Policy(retries=0))
        found = model.generate(["a"], Sampling(temperature=0.5, max_new_tokens=33))[0][0]
        assert model.left_out == set(unknown)
        model.generate(["a"], Sampling(temperature=0.5))
    assert found.text == TEXT
    assert server.requests[-2].body["max_completion_tokens"] == 33
    assert len(server.requests) == len(unknown) + 3


def test_without_counts_of_the_server_the_pieces_are_counted() -> None:
    with serving(lambda request: request.says(TEXT, usage=False)) as server:
        found = ask(server)[0]
    assert (found.n_tokens, found.n_prompt_tokens) == (3, 0)


@pytest.mark.parametrize(("finish", "expected"), [("length", "length"), ("content_filter", "length"), ("eos", "stop")])
def test_how_an_answer_ended(finish: str, expected: str) -> None:
    with serving(lambda request: request.says(TEXT, finish=finish)) as server:
        assert ask(server)[0].finish == expected


def status(code: int, body: str = "{}", **headers: str) -> Behaviour:
    return lambda request: request.answer(code, body, **headers)


def html(request: Request) -> None:
    request.answer(502, "<html><h1>Bad gateway</h1></html>", "text/html")


FAULTS: dict[str, Behaviour] = {
    "dropped at once": lambda request: request.drop(),
    "500": status(500, '{"error": {"message": "out of memory"}}'),
    "502 of a gateway": html,
    "503 while loading": status(503, '{"error": {"message": "Loading model"}}'),
    "504": status(504, ""),
    "429": status(429, '{"error": "slow down"}', Retry_After="0"),
    "429 without a time": status(429),
    "garbage": lambda request: request.answer(200, b"\x00\xff{not json"),
    "an empty body": lambda request: request.answer(200, ""),
    "a list": lambda request: request.answer(200, "[1]"),
    "no choices": lambda request: request.answer(200, '{"choices": []}'),
    "choices of numbers": lambda request: request.answer(200, '{"choices": [1]}'),
    "text that is a number": lambda request: request.answer(200, '{"choices": [{"message": {"content": 5}}]}'),
    "garbage in a stream": lambda request: request.stream(chunk(content="def"), "data: {oops\n\n", DONE),
    "an error in a stream": lambda request: request.stream(chunk(content="a"), {"error": {"message": "", "code": 5}}),
    "a stream that is cut": lambda request: request.stream(chunk(content="def test_"), end=False),
    "a stream that ends without a finish": lambda request: request.stream(chunk(content="def test_"), DONE),
    "a stream of nothing": lambda request: request.stream(),
    "a stream of comments": lambda request: request.stream(": ping\n\n", ": ping\n\n"),
    "silence": lambda request: time.sleep(1.5),
    "silence in the middle": lambda request: request.stream(chunk(content="a"), chunk(content="b"), gap_s=1.5),
    "a wrong encoding": lambda request: request.answer(200, b"not gzip", Content_Encoding="gzip"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_failure_that_passes_is_not_noticed(fault: Behaviour) -> None:
    with serving([fault, good]) as server:
        assert ask(server, policy=IMPATIENT)[0].text == TEXT
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith("silence")])
def test_a_failure_that_stays_is_told_after_so_many_tries(name: str) -> None:
    with serving(FAULTS[name]) as server, pytest.raises(GenerationError, match=r"does not answer \(asked 4 times; at"):
        ask(server)
    assert len(server.requests) == 4


def test_what_the_server_says_is_told() -> None:
    with serving(FAULTS["500"]) as server, pytest.raises(GenerationError, match=r"500: out of memory\); look into the"):
        ask(server)
    with serving(html) as server, pytest.raises(GenerationError, match="502: Bad gateway"):
        ask(server)


def test_silence_is_waited_for_twice_and_no_more() -> None:
    with serving(lambda request: time.sleep(60)) as server:
        began = time.perf_counter()
        with pytest.raises(GenerationError, match=r"asked 2 times; at last: no token for 0\.3 s"):
            ask(server, policy=Policy(retries=9, backoff_s=0.01, timeout_s=0.3))
        assert time.perf_counter() - began < 20


def test_a_slow_answer_that_goes_on_is_no_silence_but_a_server_that_only_pings_is() -> None:
    lines = "".join(f"line {i}\n" for i in range(20))
    with serving(lambda request: request.says(lines, gap_s=0.1)) as server:
        found = ask(server, policy=Policy(timeout_s=1.5))[0]
    assert found.text == lines and found.seconds > 2.0 and len(server.requests) == 1
    pings = [": ping\n\n"] * 400
    with serving([lambda request: request.stream(*pings, gap_s=0.05), good]) as server:
        began = time.perf_counter()
        assert ask(server, policy=Policy(timeout_s=0.4, backoff_s=0.01))[0].text == TEXT
        assert time.perf_counter() - began < 10


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_every_request_to_the_server(form: str) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)
    limit = status(429, "{}", Retry_After="1" if form == "seconds" else when)
    with serving([limit, good]) as server:
        model = OpenAICompatible(server.url, policy=QUICK, concurrency=1)
        model.generate(["a", "b", "c"], GREEDY)
    first, *others = [request.began for request in server.requests]
    assert len(others) == 3
    assert all(later - first >= 0.95 for later in others), "not only the one that was refused"


def test_a_wait_that_is_too_long_is_told_instead() -> None:
    with serving(status(429, '{"error": "daily limit"}', Retry_After="86400")) as server:
        with pytest.raises(GenerationError, match=r"asks to wait 86400 s \(429: daily limit\)"):
            ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), ("nan", None), ("inf", None), ("", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_forms_of_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header) == expected


def test_waits_grow_twofold_up_to_a_limit_and_differ() -> None:
    policy = Policy(backoff_s=0.5)
    for attempt, whole in ((0, 0.5), (1, 1.0), (4, 8.0), (9, 30.0), (5000, 30.0)):
        waits = [policy.delay_s(attempt) for _ in range(200)]
        assert whole / 2 <= min(waits) < max(waits) <= whole
        assert len(set(waits)) > 100


def test_no_more_requests_than_allowed_are_open_at_a_time() -> None:
    waiting: list[int] = []
    most: list[int] = []
    three = threading.Barrier(3, timeout=30)

    def slow(request: Request) -> None:
        waiting.append(1)
        three.wait()
        time.sleep(0.02)  # for a fourth to come, if one were let through
        most.append(len(waiting))
        three.wait()
        waiting.pop()  # before it is answered: the next request comes as soon as the client has the answer
        request.says(request.body["messages"][0]["content"])

    with serving(slow) as server:
        model = OpenAICompatible(server.url, policy=QUICK, concurrency=3)
        found = model.generate([f"prompt {i}\n" for i in range(12)], GREEDY)
    assert [row[0].text for row in found] == [f"prompt {i}\n" for i in range(12)], "in the order of the prompts"
    assert most == [3] * 12


def test_one_failure_stops_the_others() -> None:
    def one_bad(request: Request) -> None:
        if request.body["messages"][0]["content"] == "bad":
            request.answer(400, '{"error": {"message": "prompt is too long"}}')
        else:
            time.sleep(60)

    with serving(one_bad) as server:
        began = time.perf_counter()
        with pytest.raises(GenerationError, match=r"\(400: prompt is too long\); shorten the code"):
            OpenAICompatible(server.url).generate(["slow", "bad", "slow"], GREEDY)
        assert time.perf_counter() - began < 20


def test_a_server_that_ends_streams_for_other_requests_is_asked_for_whole_answers() -> None:
    def interrupts(request: Request) -> None:
        if request.body.get("stream"):
            request.stream(chunk(content="def"), DONE)
        else:
            request.says(TEXT)

    with serving(interrupts) as server:
        model = OpenAICompatible(server.url, policy=QUICK)
        found = model.generate(["a"], GREEDY)[0][0]
        assert model.generate(["a"], GREEDY)[0][0].text == TEXT
    assert (found.text, found.n_tokens, found.first_token_s) == (TEXT, 5, found.seconds)
    assert [request.body.get("stream", False) for request in server.requests] == [True, False, False]


def test_a_server_that_does_not_stream_is_understood() -> None:
    body = {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}]}
    with serving(lambda request: request.answer(200, json.dumps(body))) as server:
        assert ask(server)[0].text == TEXT


def test_ctrl_c_ends_it_at_once_and_closes_the_connection() -> None:
    closed = threading.Event()

    def endless(request: Request) -> None:
        try:
            request.stream(*[chunk(content="a")] * 1200, gap_s=0.05)
        except OSError:
            closed.set()

    with serving(endless) as server:
        model = OpenAICompatible(server.url)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        began = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            model.generate(["a", "b"], GREEDY)
        assert time.perf_counter() - began < 20
        assert closed.wait(20), "the server goes on for nobody"


def test_it_works_inside_a_loop_that_runs() -> None:
    async def agent(url: str) -> str:
        return OpenAICompatible(url).generate(["a"], GREEDY)[0][0].text

    with serving(good) as server:
        assert asyncio.run(agent(server.url)) == TEXT


def test_a_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret-123\n")
    echo = status(500, '{"error": {"message": "bad key sk-secret-123"}}')
    with serving([good, status(401, "no sk-secret-123"), echo]) as server:
        model = OpenAICompatible(server.url, policy=QUICK)
        model.generate(["a"], GREEDY)
        assert server.requests[0].headers["authorization"] == "Bearer sk-secret-123"
        told = []
        for match in ("refuses the key in LOWVRAM_FT_API_KEY", r"bad key \*\*\*"):
            with pytest.raises(LowvramError, match=match) as caught:
                model.generate(["a"], GREEDY)
            told += [str(caught.value), model.name, repr(model)]
            assert caught.value.__cause__ is None or "secret" not in str(caught.value.__cause__)
    assert not any("secret" in text for text in told)


@pytest.mark.parametrize("key", ["two words", "käse", "a\x00b"])
def test_a_key_that_no_header_can_hold_is_refused_without_telling_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvram_ft.inference.endpoint.os.environ", {KEY_VARIABLE: key})
    with pytest.raises(UsageError, match="holds characters that no key has") as caught:
        OpenAICompatible("http://localhost:1")
    assert key not in str(caught.value)


def test_without_a_key_none_is_sent_and_it_is_said_when_one_is_wanted() -> None:
    with serving(good) as server:
        ask(server)
        assert "authorization" not in server.requests[0].headers
        server.models = 401
        with pytest.raises(ModelError, match=r"wants a key \(401\); put it into the environment as LOWVRAM_FT_API_KEY"):
            ask(server)


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        GenerationError, match=r"cannot be reached \(.*\); is it running\? start the server, for example"
    ):
        OpenAICompatible(f"http://127.0.0.1:{port}#x", policy=QUICK)


def test_a_server_that_goes_away_for_a_moment_is_waited_for() -> None:
    with serving(good) as server:
        model = OpenAICompatible(server.url, policy=QUICK)
    with pytest.raises(GenerationError, match="asked 4 times; at last: the connection was dropped"):
        model.generate(["a"], GREEDY)


def test_the_only_model_is_taken_and_of_several_one_has_to_be_named() -> None:
    with serving(good) as server:
        assert OpenAICompatible(server.url).name == f"tiny at {server.url}"
        server.models = ["a", "b"]
        with pytest.raises(ModelError, match=r"which model\? \(it has: a, b\); add #NAME to the address"):
            OpenAICompatible(server.url)
        assert OpenAICompatible(server.url + "#b").model == "b"
        assert OpenAICompatible(server.url + "#b", model="a").model == "a"
        server.models = 404
        with pytest.raises(ModelError, match="it lists none"):
            OpenAICompatible(server.url)
        assert OpenAICompatible(server.url, model="a").model == "a"


def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    with serving(status(404, '{"error": {"message": "model \'x\' not found"}}')) as server:
        model = OpenAICompatible(server.url + "#x")
        with pytest.raises(ModelError, match=r"has no model x \(it has: tiny\); name one of them"):
            model.generate(["a"], GREEDY)
        server.models = 404
        with pytest.raises(GenerationError, match=r"speaks no OpenAI chat completions .* often ends in /v1"):
            model.generate(["a"], GREEDY)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (status(307, "", Location="http://elsewhere/v1"), r"has moved \(to http://elsewhere/v1\); give that address"),
        (status(405, "no"), r"does not answer \(405: no\); check the address"),
        (status(429, '{"error": {"message": "pay", "code": "insufficient_quota"}}'), "429: pay"),
        (lambda request: request.stream({"error": {"message": "too long", "code": 400}}), r"refuses \(too long\)"),
    ],
)
def test_what_does_not_pass_is_told_at_once(behaviour: Behaviour, message: str) -> None:
    with serving(behaviour) as server, pytest.raises(GenerationError, match=message):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("given_url", "url", "model"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1", None),
        ("http://localhost:11434/", "http://localhost:11434/v1", None),
        ("http://localhost:11434/v1/#my/model:7b", "http://localhost:11434/v1", "my/model:7b"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1", None),
        ("http://h/v1/chat/completions", "http://h/v1", None),
        ("http://[::1]:8080#m", "http://[::1]:8080/v1", "m"),
        (" HTTP://Host:80 ", "http://host/v1", None),
    ],
)
def test_addresses(given_url: str, url: str, model: str | None) -> None:
    found = parse_endpoint(given_url)
    assert (found.url, found.model) == (url, model)


@pytest.mark.parametrize(
    "text", ["http://", "ftp://host", "http://me:pass@host", "http://host?key=sk-1", "http://h:99999"]
)
def test_addresses_that_are_refused_and_no_secret_in_them_told(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint(text)
    assert "pass@" not in str(caught.value) and "sk-1" not in str(caught.value)


EVENTS = (
    b"\xef\xbb\xbf: hello\r\n\r\ndata: one\rdata:two\n\nevent: x\ndata: \xc3\xa4\r\n\r\nid: 1\n\ndata\n\ndata: last"
)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=12))
def test_events_are_the_same_however_their_bytes_are_cut(places: list[int]) -> None:
    stream, found = EventStream(), []
    cuts = [0, *sorted(places), len(EVENTS)]
    for start, end in itertools.pairwise(cuts):
        found += stream.feed(EVENTS[start:end])
    assert [*found, *stream.rest()] == ["one\ntwo", "ä", "", "last"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "finish_reason", "index", "usage", "error", "code"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.dictionaries(st.just("choices"), st.lists(JSON, max_size=2)), st.text(max_size=20))
def test_any_reply_is_understood_or_called_broken(value: object, junk: str) -> None:
    told: list[str] = []
    for text in (json.dumps(value), junk, json.dumps(value)[:-1]):
        for add in (Reply.add_event, Reply.add_whole):
            reply = Reply()
            try:
                add(reply, text)
                assert all(isinstance(choice.text, str) for choice in reply.whole())
            except (BrokenReplyError, RefusedError) as error:
                told.append(str(error))
    assert all(text.isprintable() for text in told)


def test_the_words_of_an_error_cannot_drive_a_terminal() -> None:
    said = words_of(json.dumps({"error": {"message": "\x1b[31mred\x07\nand\u202e more" + "x" * 1000}}))
    assert said.startswith("[31mred and more") and said.isprintable() and len(said) <= 300
