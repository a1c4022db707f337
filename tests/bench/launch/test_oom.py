"""The kernel's count of OOM kills, in trees of files as the kernel lays them."""

import pytest

from bench.launch.runner import oom_kills

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 12\nmax 9\noom 8\noom_kill {}\noom_group_kill 1\n"


@pytest.mark.parametrize(
    ("cgroups", "files", "count"),
    [
        ("0::/user.slice/a\n", {"user.slice/a/memory.events": V2.format(3)}, 3),
        ("0::/host/only\n", {"memory.events": V2.format(5)}, 5),
        (
            "9:name=systemd:/\n4:cpu,memory:/a:b\n0::/\n",
            {"memory/a:b/memory.oom_control": V1.format(6), "memory.events": V2.format(1)},
            6,
        ),
        ("4:memory:/docker/x\n", {"memory/memory.oom_control": V1.format(7)}, 7),
        ("4:memory:/old\n", {"memory/old/memory.oom_control": "under_oom 0\n"}, None),
        ("\n::\nnonsense\n", {}, None),
    ],
)
def test_the_count_by_version_and_place(tmp_path, cgroups, files, count):
    for name, text in files.items():
        path = tmp_path / "mounts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").write_text(cgroups)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "mounts") == count
