"""What a machine leaves this process: control groups of both versions, hyper-threads, memory."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from localfusion import machine
from localfusion.machine import cgroup

GIB = 1 << 30


def make(root: Path, files: Mapping[str, str]) -> Path:
    """A file system in which `files` are."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/user/app", "sys/fs/cgroup/user/app/cgroup.procs": "1"}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x",
    "sys/fs/cgroup/cpu,cpuacct/docker/x/tasks": "1",
    "sys/fs/cgroup/memory/docker/x/tasks": "1",
}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        (V2, None),
        ({**V2, "sys/fs/cgroup/user/app/cpu.max": "max 100000"}, None),
        ({**V2, "sys/fs/cgroup/user/app/cpu.max": "150000 100000"}, 1.5),
        ({**V2, "sys/fs/cgroup/user/app/cpu.max": "400000 100000", "sys/fs/cgroup/user/cpu.max": "200000 100000"}, 2),
        ({**V2, "proc/self/cgroup": "0::/../other", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ({**V1, "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "-1"}, None),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "200000",
            },
            1.5,
        ),
        ({"proc/self/cgroup": "3:cpu:/gone", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000"}, 1),
    ],
)
def test_a_quota_of_cores(tmp_path: Path, files: Mapping[str, str], cores: float | None) -> None:
    assert cgroup.cpu_cores(make(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({**V2, "sys/fs/cgroup/user/app/memory.max": "max"}, None),
        (
            {
                **V2,
                "sys/fs/cgroup/user/app/memory.max": f"{4 * GIB}",
                "sys/fs/cgroup/user/app/memory.current": f"{3 * GIB}",
                "sys/fs/cgroup/user/app/memory.stat": f"anon 1\ninactive_file {GIB}",
            },
            2 * GIB,
        ),
        (
            {
                **V2,
                "sys/fs/cgroup/user/app/memory.max": f"{4 * GIB}",
                "sys/fs/cgroup/user/app/memory.current": f"{4 * GIB}",
                "sys/fs/cgroup/user/app/memory.stat": (
                    f"anon {GIB}\nfile {3 * GIB}\ninactive_anon 0\nactive_anon {GIB}\n"
                    f"inactive_file {GIB}\nactive_file {2 * GIB}\nunevictable 0"
                ),
            },
            3 * GIB,
        ),
        (
            {
                **V2,
                "sys/fs/cgroup/user/app/memory.max": f"{4 * GIB}",
                "sys/fs/cgroup/user/app/memory.current": f"{GIB}",
                "sys/fs/cgroup/user/app/memory.stat": f"active_file {2 * GIB}",
            },
            4 * GIB,
        ),
        (
            {
                **V2,
                "sys/fs/cgroup/user/app/memory.max": f"{4 * GIB}",
                "sys/fs/cgroup/user/memory.max": f"{2 * GIB}",
                "sys/fs/cgroup/user/memory.current": f"{3 * GIB}",
            },
            0,
        ),
        ({**V1, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "9223372036854771712"}, None),
        (
            {
                **V1,
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{4 * GIB}",
                "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": f"{2 * GIB}",
                "sys/fs/cgroup/memory/docker/x/memory.stat": f"total_inactive_file {GIB}",
            },
            3 * GIB,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{4 * GIB}",
                "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": f"{4 * GIB}",
                "sys/fs/cgroup/memory/docker/x/memory.stat": (
                    f"inactive_file 1\nactive_file 1\ntotal_inactive_file {GIB}\ntotal_active_file {GIB // 2}"
                ),
            },
            GIB + GIB // 2,
        ),
    ],
)
def test_memory_that_a_group_leaves(tmp_path: Path, files: Mapping[str, str], free: int | None) -> None:
    assert cgroup.free_bytes(make(tmp_path, files)) == free


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    pairs = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    make(tmp_path, {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": pair for n, pair in pairs.items()})
    assert machine.physical_cores([0, 2], tmp_path) == 1
    assert machine.physical_cores([0, 1, 2, 3], tmp_path) == 2
    assert machine.physical_cores([0, 9], tmp_path) == 2


def test_this_machine_has_cores_and_memory() -> None:
    assert machine.usable_cores() >= 1
    assert machine.available_bytes() > 0


def test_the_use_of_a_process_that_is_gone_is_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert machine.use_of(process.pid) == (0, 0.0)
    rss, seconds = machine.use_of(os.getpid())
    assert rss > 0
    assert seconds > 0
