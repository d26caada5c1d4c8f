"""Guests themselves: what runs in them, how they end, and what is said when they can't begin."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from wesper.errors import UnsupportedError
from wesper.host.netlink import NetlinkError
from wesper.kernel import CARD, Guest, GuestError, GuestGone, Kernel, find
from wesper.kernel.xfrm import Xfrm

from .conftest import KERNELS
from .peer import Peer

PATIENCE_S = 20.0


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    try:
        return find(request.param)
    except UnsupportedError as error:
        pytest.skip(str(error))


def processes_of(session: int) -> list[int]:
    """Processes of this machine in a session that are not zombies."""
    found = []
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (each / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(each.name))
    return found


def eventually_none(session: int) -> bool:
    until = time.monotonic() + PATIENCE_S
    while processes_of(session):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_commands(guest: Guest) -> None:
    done = guest.run(["sh", "-c", "uname -r; echo to stderr >&2; exit 3"], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{guest.release}\n".encode(), b"to stderr\n")
    assert guest.run(["no-such-program"], check=False).returncode == 127
    assert guest.run(["sh", "-c", "kill -9 $$"], check=False).returncode == -9
    with pytest.raises(subprocess.CalledProcessError) as failure:
        guest.run(["sh", "-c", "echo what is wrong >&2; false"])
    assert failure.value.__notes__ == ["what is wrong"]


def test_input_of_any_length_comes_through(guest: Guest) -> None:
    octets = os.urandom(300_000)
    assert guest.run(["cat"], input=octets).stdout == octets
    assert guest.run(["true"], input=octets).returncode == 0


def test_a_terminal(guest: Guest) -> None:
    said = b""

    def take(stream: str, data: bytes) -> None:
        nonlocal said
        said += data

    process = guest.spawn(
        ["sh", "-c", "test -t 0 && stty size && read x && echo got $x"], terminal=(33, 77), output=take
    )
    process.write(b"line\n")
    assert process.wait(PATIENCE_S) == 0
    assert b"33 77" in said
    assert b"got line" in said


def test_calls(guest: Guest) -> None:
    def add(one: int, *, other: int) -> list[int]:
        import os

        return [one + other, os.getppid()]

    def fail() -> None:
        raise LookupError("of what is not there")

    def vanish() -> None:
        import os

        os._exit(5)

    def hang() -> None:
        import time

        time.sleep(1000)

    assert guest.call(add, 1, other=2) == [3, 1]
    with pytest.raises(GuestError, match="LookupError: of what is not there"):
        guest.call(fail)
    with pytest.raises(GuestError, match="ended with code 5"):
        guest.call(vanish)
    with pytest.raises(TimeoutError):
        guest.call(hang, timeout=0.2)
    assert guest.call(add, 4, other=5)[0] == 9


def test_files_are_the_machines_and_read_only(guest: Guest) -> None:
    assert guest.read(__file__) == Path(__file__).read_text()
    assert guest.run(["touch", str(Path(__file__).parent / "trace")], check=False).returncode != 0
    assert not (Path(__file__).parent / "trace").exists()
    guest.run(["sh", "-c", "echo x > $TMPDIR/y && cat $TMPDIR/y"])
    with pytest.raises(GuestError) as failure:
        guest.read("/proc/there/is/none")
    assert failure.value.number == 2


def test_the_kernels_own_words_reach_the_caller(guest: Guest, xfrm: Xfrm) -> None:
    peer = Peer(guest, xfrm, "reference")
    with pytest.raises(NetlinkError, match="File exists"):
        xfrm.add(peer.to_us)
    if guest.version >= (6, 10):
        with pytest.raises(NetlinkError, match="replay window must be > 0"):
            xfrm.add(
                replace(peer.to_guest, sa=replace(peer.to_guest.sa, spi=0x999, profile=replace(peer.profile, window=0)))
            )


def test_power_off_leaves_nothing(kernel: Kernel) -> None:
    with Guest(kernel, card=True) as guest:
        assert guest.netlink().has_carrier(CARD)
        session = guest.pid
        assert processes_of(session)
        assert guest.folder.exists()
        guest.start(sleep_for_ever)
    assert not guest.is_running()
    assert eventually_none(session)
    assert not guest.folder.exists()
    guest.close()


def sleep_for_ever() -> None:
    """In the guest."""
    import time

    time.sleep(1e6)


def test_a_guest_dies_with_its_owner(kernel: Kernel, tmp_path: Path) -> None:
    """The serial line hangs up, and the agent powers off."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, signal\nfrom wesper.kernel import Guest, find\n"
        f"guest = Guest(find({kernel.name!r}))\nprint(guest.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == -9, done.stderr
    assert eventually_none(int(done.stdout))


def test_a_guest_that_dies_says_so(kernel: Kernel) -> None:
    with Guest(kernel) as guest:
        os.kill(guest.pid, 9)
        with pytest.raises(GuestGone, match="the guest has ended"):
            guest.run(["true"])


def test_a_boot_that_fails_shows_the_console(kernel: Kernel, tmp_path: Path) -> None:
    """A kernel without memory to stand on, and programs that are none."""
    script = tmp_path / "linux"
    script.write_text("#!/bin/sh\necho this kernel is broken\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(GuestGone, match="this kernel is broken"):
        Guest(replace(kernel, binary=script))
    script.write_text("#!/bin/sh\necho this kernel does nothing\nexec sleep 1000\n")
    with pytest.raises(GuestGone, match=r"not answered for 1 s; its console ends:\nthis kernel does nothing"):
        Guest(replace(kernel, binary=script), boot_timeout=1.0)
    with pytest.raises(UnsupportedError, match="no program that can be run"):
        Guest(replace(kernel, binary=tmp_path / "none"))
