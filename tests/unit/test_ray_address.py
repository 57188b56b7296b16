"""What ``--ray`` takes, and what it says where there is no cluster. No cluster is started."""

import os
import socket
import subprocess
import sys

import pytest

from lowvram_ft.errors import MachineError, MissingExtraError, UsageError
from lowvram_ft.execution import place, ray_cluster, worker
from lowvram_ft.execution.ray_cluster import Address, environment, quiet, read_address
from lowvram_ft.execution.ray_pool import judged_at
from lowvram_ft.execution.worker import pack, unpack, version_problem


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("local:3", Address("local:3", "local", 3)),
        ("local", Address("local", "local", os.cpu_count())),
        ("auto", Address("auto", "auto")),
        ("head:6379", Address("head:6379", "head:6379", None, ("head", 6379))),
        ("ray://10.0.0.1:10001", Address("ray://10.0.0.1:10001", "ray://10.0.0.1:10001", None, ("10.0.0.1", 10001))),
        ("[::1]:6379", Address("[::1]:6379", "[::1]:6379", None, ("::1", 6379))),
    ],
)
def test_addresses(text, found):
    assert read_address(text) == found


@pytest.mark.parametrize("text", ["", "local:0", "local:", "local:x", "head", "http://head:1", "ray://head", "a b:1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match=r"--ray: no such address .*; give local"), judged_at(text):
        pass


def test_no_address_changes_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with judged_at(None):
        assert place.elsewhere() is None


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lowvram-ft\[ray\]"'), judged_at("auto"):
        pass


def test_an_address_at_which_nothing_listens_is_named():
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(MachineError, match=rf"--ray {address}: nothing answers there .*--ray local"):
            with judged_at(address):
                pass


def test_an_address_that_never_answers_is_given_up():
    pytest.importorskip("ray")
    script = (
        "import socket\n"
        "from lowvram_ft.errors import MachineError\n"
        "from lowvram_ft.execution import ray_cluster, ray_pool\n"
        "ray_cluster.CONNECT_S = 2.0\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "try:\n"
        "    with ray_pool.judged_at(f'127.0.0.1:{server.getsockname()[1]}'):\n"
        "        pass\n"
        "except MachineError as error:\n"
        "    print(error)\n"
    )  # in a process of its own: Ray does not stop trying
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "no cluster answers within 2 s" in run.stdout


def test_ray_leaves_stdout_the_environment_and_its_logger_as_they_were(capsys):
    before = dict(os.environ)
    with environment(read_address("local:2")), quiet():
        print("of a lost worker")
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray does
    assert dict(os.environ) == before
    out, err = capsys.readouterr()
    assert (out, err) == ("", "of a lost worker\n")
    with environment(read_address("auto")):
        assert "RAY_AUTH_TOKEN" not in os.environ, "a cluster that runs has its own"


def test_a_token_of_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    with environment(read_address("local")):
        assert os.environ["RAY_AUTH_TOKEN"] == "theirs"
    assert os.environ["RAY_AUTH_TOKEN"] == "theirs"


def test_versions_differ_by_name():
    ours = {"lowvram-ft": "1", "python": "3.11.7", "pytest": "9.1"}
    assert version_problem(dict(ours), ours) is None
    assert version_problem(ours | {"python": "3.11.9"}, ours) is None
    assert version_problem(ours | {"python": "3.12.7"}, ours) == "python 3.12.7 and not 3.11.7"
    assert version_problem({"python": "3.11.7", "pytest": "9.2"}, ours) == (
        "lowvram-ft is missing and not 1, pytest 9.2 and not 9.1"
    )


def test_a_job_as_text_gives_the_answer_of_this_process(monkeypatch):
    from lowvram_ft.execution import Limits
    from lowvram_ft.execution.executor import ask_here
    from lowvram_ft.execution.pool import Question

    test = "from solution import f\n\n\ndef test_f():\n    assert f() == '\ud800'\n"
    question = Question("def f():\n    return 1 + 1\n", "solution", test, Limits(), None, True, None)
    packed = pack(question, None, "always")
    assert packed.isascii()
    there, here = unpack(worker.work(packed)), ask_here(question, None, "always")
    assert [result.outcome for result in there[0].results] == [result.outcome for result in here[0].results]
    assert (there[1], there[2]) == (here[1], True)
    assert unpack(worker.work(pack(question, None, "never")))[1] is None


def test_the_thread_that_connects_outlives_the_connection(monkeypatch):
    import threading

    class Ray:
        """Notes the thread that starts it."""

        def is_initialized(self):
            return False

        def init(self, **_):
            self.thread = threading.current_thread()

        def shutdown(self):
            assert self.thread.is_alive(), "the kernel has ended what it started"

    ray = Ray()
    with ray_cluster.connected(ray, read_address("local:1")):
        assert ray.thread is not threading.current_thread()
    ray.thread.join(10)
    assert not ray.thread.is_alive()
