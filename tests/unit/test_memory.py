"""How much memory is left, as control groups of both versions and the machine say it, and when that is told."""

from __future__ import annotations

from pathlib import Path

from quell.memory import Measure, Pressure, measure

MIB = 1 << 20


def machine(root: Path, available_mib: int = 8000) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/pressure").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: {10_000 * 1024} kB\nMemAvailable: {available_mib * 1024} kB\n")
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    return root


def group_2(folder: Path, *, limit: str, current: int, idle: int = 0, oom: int = 0, stalled: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\n")
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom {oom}\noom_kill 0\n")
    (folder / "memory.pressure").write_text(
        f"some avg10=0.00 avg60=50.00 avg300=0.00 total=0\nfull avg10=0.00 avg60={stalled:.2f} avg300=0.00 total=0\n"
    )


def test_here_it_can_be_measured() -> None:
    found = measure()
    assert found is not None
    assert 0 < found.used < found.limit
    assert found.of in {"the machine", "its control group"}


def test_the_nearest_limit_of_version_2_counts_without_what_the_kernel_would_give_back(tmp_path: Path) -> None:
    root = machine(tmp_path)
    (root / "proc/self/cgroup").write_text("0::/a.slice/b.service\n")
    mount = root / "sys/fs/cgroup"
    group_2(mount / "a.slice", limit=str(1000 * MIB), current=950 * MIB, idle=100 * MIB, oom=3)
    group_2(mount / "a.slice/b.service", limit="max", current=900 * MIB)
    found = measure(root)
    assert found == Measure(used=850 * MIB, limit=1000 * MIB, of="its control group", stalled=0.0, out_of_memory=3)
    group_2(mount / "a.slice/b.service", limit=str(900 * MIB), current=890 * MIB, stalled=25)
    found = measure(root)
    assert found is not None
    assert (found.limit, found.stalled) == (900 * MIB, 25.0)
    assert str(found) == (
        "890 of 900 MiB of its control group are used (99 %), and 25 % of the last minute everything waited for memory"
    )


def test_version_1_and_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    root = machine(tmp_path)
    (root / "proc/self/cgroup").write_text("5:cpu:/docker/abc\n4:memory:/docker/abc\n")
    mount = root / "sys/fs/cgroup/memory"
    mount.mkdir()
    (mount / "memory.limit_in_bytes").write_text(f"{500 * MIB}\n")
    (mount / "memory.usage_in_bytes").write_text(f"{480 * MIB}\n")
    (mount / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {30 * MIB}\n")
    (mount / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert measure(root) == Measure(used=450 * MIB, limit=500 * MIB, of="its control group", out_of_memory=2)
    (mount / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    found = measure(root)
    assert found is not None
    assert found.of == "the machine"


def test_a_group_with_room_on_a_machine_without(tmp_path: Path) -> None:
    root = machine(tmp_path, available_mib=200)
    (root / "proc/self/cgroup").write_text("0::/a\n")
    group_2(root / "sys/fs/cgroup/a", limit=str(1000 * MIB), current=10 * MIB)
    found = measure(root)
    assert found is not None
    assert (found.of, round(found.share)) == ("the machine", 98)


def test_what_cannot_be_read_is_no_pressure(tmp_path: Path) -> None:
    assert measure(tmp_path) is None
    root = machine(tmp_path)
    (root / "proc/meminfo").write_text("")
    assert measure(root) is None


def share(percent: float, **more: float) -> Measure:
    return Measure(used=int(percent * 10), limit=1000, of="it", **more)  # type: ignore[arg-type]


def test_it_is_told_once_as_it_begins_and_is_over_well_below() -> None:
    pressure = Pressure(90, 600)
    assert pressure.look(share(89), 0) == ""
    assert "(90 %)" in pressure.look(share(90), 10)
    assert pressure.look(share(95), 20) == ""
    assert pressure.look(share(85), 30) == ""  # not over yet
    assert pressure.look(share(95), 700) == ""
    assert pressure.look(share(79), 710) == ""  # over
    assert pressure.look(share(91), 720) != ""


def test_it_is_not_told_again_at_once() -> None:
    pressure = Pressure(90, 600)
    told = [bool(pressure.look(share(95 if second % 20 else 50), second)) for second in range(0, 1300, 10)]
    assert told.count(True) == 3


def test_stalls_and_running_out_are_pressure_whatever_the_share_is() -> None:
    assert "waited for memory" in Pressure(90, 600).look(share(10, stalled=12.0), 0)
    pressure = Pressure(90, 600)
    assert pressure.look(share(50, out_of_memory=4), 0) == ""
    assert "it ran out meanwhile" in pressure.look(share(50, out_of_memory=5), 10)
