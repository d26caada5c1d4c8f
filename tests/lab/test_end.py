"""Nothing of a lab is left when it ends, whatever the way; and what is said where there can be none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wesper.lab import CallDied, LabGone, pair
from wesper.lab.client import Client, running

pytestmark = pytest.mark.usefixtures("namespaces")
Eventually = Callable[[Callable[[], object]], None]
NOBODY = 65534

# A lab with all that it can have running: a forwarder, a capture, a program that has left its parent, a function.
SCRIPT = """
import os, signal, sys, time
from wesper.lab import pair

lab = pair(loss="1%")
a, b = lab
capture = lab.links["a-b"].capture(sys.argv[1])
a.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
b.spawn(["sleep", "1000"])
call = b.start(signal.pause)
print(lab.name, *(os.stat(f"/proc/self/fd/{node.namespace}").st_ino for node in lab), flush=True)
time.sleep(1000)
"""


def inside(inodes: set[int]) -> list[str]:
    """Return the processes that are in one of these network namespaces, or hold a descriptor of one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for place in (process / "ns" / "net", *_entries(process / "fd")):
            try:
                if os.stat(place).st_ino in inodes:
                    found.append(process.name)
            except OSError:
                continue
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_takes_the_lab_along(number: signal.Signals, tmp_path: Path, eventually: Eventually) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out.pcapng")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        name, *inodes = owner.stdout.readline().split()
        numbers = {int(inode) for inode in inodes}
        assert inside(numbers)
        assert name in running()
        owner.send_signal(number)
        owner.wait(20)
    eventually(lambda: not inside(numbers))
    eventually(lambda: name not in running())


def test_closing_ends_everything_at_once() -> None:
    lab = pair(forwarder=True)
    a, b = lab
    numbers = {os.stat(f"/proc/self/fd/{node.namespace}").st_ino for node in lab}
    a.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
    process, call = b.spawn(["sleep", "1000"]), b.start(signal.pause)
    name = lab.name
    lab.close()
    assert process.poll() is not None
    with pytest.raises(CallDied):
        call.result(0)
    assert not inside(numbers)
    assert name not in running()


def test_strangers_words_do_not_end_a_lab() -> None:
    with pair() as lab, Client.connect(lab.name) as stranger:
        for words in ({}, {"op": "none"}, {"op": "namespace"}, {"op": "socket", "name": "no"}, {"op": "__init__"}):
            with pytest.raises(OSError, match="Invalid argument"):
                stranger.ask(words)
        stranger.ask({"op": "end"})
        with Client.connect(lab.name) as another:
            assert another.description()["name"] == lab.name
        assert all(lab["a"].ping(lab["b"]))


def test_a_killed_keeper_is_told(eventually: Eventually) -> None:
    with pair() as lab:
        a = lab["a"]
        # The keeper's init is the PID namespace's first process, seen from in there.
        parent = a.call(lambda: Path("/proc/self/status").read_text())
        assert "NSpid" in parent
        keeper = lab.client._process
        assert keeper is not None
        keeper.kill()
        keeper.wait()

        def gone() -> bool:
            try:
                a.socket().close()
            except LabGone:
                return True
            return False

        eventually(gone)


def test_a_killed_launcher_takes_its_program_along(eventually: Eventually) -> None:
    with pair() as lab, lab["a"].spawn(["sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        # The pipe ends when the program has gone.
        assert process.stdout.read() == b""


def test_no_namespaces_is_one_message_and_exit_code_3() -> None:
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    wesper = [sys.executable, "-m", "wesper", "lab", "run", "pair", "--", "true"]
    done = subprocess.run([*command, *wesper], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("wesper: a network namespace is not available here: unshare says ")
    assert "user.max_user_namespaces" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.needs_root
def test_an_ordinary_user_has_the_same_lab(tmp_path: Path) -> None:
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    try:
        subprocess.run([sys.executable, "-c", "import wesper"], check=True, capture_output=True, **as_nobody)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("an ordinary user can't run this Python, or not import wesper")
    script = """
from wesper.lab import nat, routed
with routed(delay="1ms", seed=1) as lab:
    a, r, b = lab
    with r.capture(PATH) as capture:
        print(None not in a.ping(b, count=10, timeout=20))
        print(a.run(["id", "-u"]).stdout.strip(), b.call(lambda: 7))
    print(capture.packets >= 40)
with nat() as lab:
    print(None not in lab["a"].ping(lab["b"], count=2), lab["b"].ping(lab["a"], timeout=0.1))
"""
    path = Path(f"/tmp/wesper-lab-{os.getpid()}.pcapng")  # tmp_path is root's own
    try:
        done = subprocess.run(
            [sys.executable, "-c", script.replace("PATH", repr(str(path)))],
            capture_output=True, text=True, timeout=60, **as_nobody,
        )  # fmt: skip
        assert path.stat().st_uid == NOBODY
    finally:
        path.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", "0 7", "True", "True [None]"]
