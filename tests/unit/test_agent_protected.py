"""What may never be touched is recognised by what it is, never by its name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quell.agent.cgroup import placement
from quell.agent.proc import Facts, boot_id, read_process
from quell.agent.protected import Protected, ProtectedList, read_list
from quell.errors import SettingError
from quell.model.subject import Process

ID = "0123456789abcdef" * 4


def facts(
    *,
    pid: int = 4242,
    uid: int = 0,
    cgroup: str = "/",
    exe_id: tuple[int, int] | None = None,
    kernel_thread: bool = False,
) -> Facts:
    process = Process(pid=pid, start_ticks=1, start_time=1.0, boot_id=boot_id(), name="x", exe="/x", uid=uid)
    return Facts(
        process=process,
        placement=placement(f"0::{cgroup}\n".encode()),
        exe_id=exe_id,
        kernel_thread=kernel_thread,
        ended=False,
    )


@pytest.fixture(scope="module")
def protected() -> Protected:
    return Protected.load()


def test_process_1_and_threads_of_the_kernel_and_quell_itself(protected: Protected) -> None:
    assert "process 1" in protected.check(facts(pid=1))
    assert "kernel" in protected.check(facts(kernel_thread=True))
    own = read_process(os.getpid())
    assert own is not None
    assert "Quell itself" in protected.check(own)
    assert protected.check(facts(pid=os.getpid())) == "", "another start of the same pid is another process"
    assert protected.check(facts()) == ""


def test_another_python_is_not_protected_but_the_controller_is(protected: Protected) -> None:
    with subprocess.Popen(["/bin/sleep", "300"]) as process:
        try:
            found = read_process(process.pid)
            assert found is not None
            assert protected.check(found) == ""
            assert "Quell itself" in Protected.load(own=[process.pid]).check(found)
        finally:
            process.kill()
    assert not protected.add_process(process.pid)


@pytest.mark.parametrize(
    ("cgroup", "is_protected"),
    [
        ("/system.slice/containerd.service", True),
        ("/system.slice/kubelet.service/worker", True),
        ("/runtime.slice/kubelet.service", True),
        ("/kubelet.service", True),
        ("/init.scope", True),
        ("/init.scope/x", True),
        ("/init.scopes", False),
        ("/system.slice/nginx.service", False),
        ("/system.slice/nginx.service/containerd.service", False),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/containerd.service", False),
        ("/user.slice/containerd.service", False),
        (f"/system.slice/docker-{ID}.scope/system.slice/containerd.service", False),
        (f"/docker/{ID}/init.scope", False),
        (
            f"/system.slice/containerd.service/kubepods-besteffort-pod8d6f7e6a_1b2c_4d3e_9f00_aabbccddeeff.slice:cri-containerd:{ID}",
            False,
        ),
    ],
)
def test_units_and_control_groups_of_the_machine_itself(protected: Protected, cgroup: str, is_protected: bool) -> None:
    assert bool(protected.check(facts(cgroup=cgroup))) is is_protected


def test_an_executable_is_known_by_its_inode_and_only_for_its_user(tmp_path: Path) -> None:
    real, other = tmp_path / "daemon", tmp_path / "elsewhere" / "daemon"
    other.parent.mkdir()
    real.write_bytes(b"x")
    other.write_bytes(b"x")
    link = tmp_path / "another-name"
    link.hardlink_to(real)
    protected = Protected(ProtectedList(executables={"root": (f"{tmp_path}/dae*",)}))

    def identity(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_dev, status.st_ino

    assert "daemon" in protected.check(facts(exe_id=identity(real))).replace("/x", "daemon")
    assert protected.check(facts(exe_id=identity(link)))
    assert protected.check(facts(exe_id=identity(other))) == "", "only the name is the same"
    assert protected.check(facts(exe_id=identity(real), uid=12345)) == "", "run by a user who may preload anything"
    assert Protected(ProtectedList(executables={"*": (str(real),)})).check(facts(exe_id=identity(real), uid=12345))


def test_an_upgraded_executable_stays_protected_while_the_old_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "daemon"
    path.write_bytes(b"old")
    old = path.stat()
    protected = Protected(ProtectedList(executables={"*": (str(path),)}))
    assert protected.check(facts(exe_id=(old.st_dev, old.st_ino)))
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(path)
    new = path.stat()
    monkeypatch.setattr("quell.agent.protected._LOOK_AGAIN", 0.0)
    assert protected.check(facts(exe_id=(new.st_dev, new.st_ino)))
    assert protected.check(facts(exe_id=(old.st_dev, old.st_ino)))


def test_a_real_copy_of_a_protected_program_is_protected_and_a_copy_of_the_copy_is_not(tmp_path: Path) -> None:
    program, copy = tmp_path / "daemon", tmp_path / "copy"
    shutil.copy("/bin/sleep", program)
    shutil.copy("/bin/sleep", copy)
    protected = Protected(ProtectedList(executables={"*": (str(program),)}))
    for path, is_protected in ((program, True), (copy, False)):
        with subprocess.Popen(["daemon", "300"], executable=path) as process:
            try:
                found = read_process(process.pid)
                assert found is not None
                assert bool(protected.check(found)) is is_protected
            finally:
                process.kill()


def test_an_operators_file_extends_the_list(tmp_path: Path) -> None:
    path = tmp_path / "protected.toml"
    path.write_text('units = ["broker.service"]\ncgroups = ["/vault"]\n')
    protected = Protected.load(path)
    for cgroup in ("/system.slice/broker.service", "/vault/x", "/system.slice/containerd.service"):
        assert protected.check(facts(cgroup=cgroup))
    assert protected.warnings == ()


def test_leaving_out_the_defaults_is_told_loudly(tmp_path: Path) -> None:
    path = tmp_path / "protected.toml"
    path.write_text('without_defaults = true\nunits = ["broker.service"]\n')
    protected = Protected.load(path)
    assert protected.check(facts(cgroup="/system.slice/containerd.service")) == ""
    assert protected.check(facts(cgroup="/system.slice/broker.service"))
    assert protected.check(facts(pid=1))
    assert "default list" in protected.warnings[0]


def test_words_of_the_controller_extend_it_too(tmp_path: Path) -> None:
    program = tmp_path / "daemon"
    program.write_bytes(b"x")
    status = program.stat()
    protected = Protected()
    protected.extend(["queue.service", "cgroup:/queue", str(program)])
    assert protected.check(facts(cgroup="/system.slice/queue.service"))
    assert protected.check(facts(cgroup="/queue/1"))
    assert protected.check(facts(exe_id=(status.st_dev, status.st_ino)))
    with pytest.raises(SettingError, match="sshd"):
        protected.extend(["sshd"])


@pytest.mark.parametrize("text", ['unit = ["x.service"]', "units = 5", "units = [", ""])
def test_a_list_with_anything_unknown_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "protected.toml"
    path.write_text(text)
    if text:
        with pytest.raises(SettingError, match=r"protected\.toml"):
            read_list(path)
    else:
        assert read_list(path) == ProtectedList()
    with pytest.raises(SettingError, match="cannot be read"):
        read_list(tmp_path / "none.toml")
