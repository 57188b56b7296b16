"""This machine against the system's own tools, and machines that are not at hand as fakes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowvram_ft import hardware as hardware_module
from lowvram_ft.hardware import cache_dir, cpu_facts, detect, linux_memory
from tests.machines import GIB, RTX_3050, FakeNvmlError, fake_nvml, write


@pytest.mark.parametrize(
    ("names", "shown"),
    [(None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("", []), ("-1", []), ("0,7,1", [0]), ("GPU-8932f937", [0, 1, 2])],
)
def test_cards_that_cuda_hides_are_not_planned_for(names, shown):
    assert hardware_module.visible(names, 3) == shown


def fails():
    raise FakeNvmlError("NVML Shared Library Not Found")


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
