"""A Linux kernel in a process: user-mode Linux, booted in about a second, with this machine's files read-only.

It needs no privilege: what the guest's root sees of the files is what the user who started it may read.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import ConfigError, UnsupportedError
from ..host.netlink import NETLINK_ROUTE, Netlink
from .control import Call, Control, GuestGone, GuestSocket, Output, Process, netlink
from .store import Kernel

CARD = "vec0"
"""The guest's network card."""
MAC = bytes((2, 0, 0, 0, 0, 2))
_AGENT = Path(__file__).with_name("agent.py")
_WIDE_XSTATE = Path(__file__).with_name("wide_xstate.c")
_MEMORY_MIB = 256
_BOOT_S = 60.0
_END_S = 10.0
_CONSOLE_LINES = 12
_BUFFER = 4 << 20
_numbers = itertools.count(1)


class Guest:
    """A kernel that runs.

        with Guest(find("built"), card=True) as guest:
            guest.add_address("192.0.2.2/24")
            print(guest.release, guest.run(["uname", "-a"]).stdout)
            guest.frames.send(frame)

    card: give it a network card; `frames` is the other end of its wire: a seqpacket socket, each message one Ethernet
    frame.   frames: use this socket instead, a packet socket for instance (`Interface.frames` of a lab's host); it
    stays the caller's.   mac, mtu: of the card.   memory: MiB.   boot_timeout: seconds.
    Raises UnsupportedError if the kernel can't run here, GuestGone with the end of its console if it does not boot.
    """

    frames: socket.socket

    def __init__(
        self,
        kernel: Kernel,
        *,
        card: bool = False,
        frames: socket.socket | None = None,
        mac: bytes = MAC,
        mtu: int = 1500,
        memory: int = _MEMORY_MIB,
        boot_timeout: float = _BOOT_S,
    ) -> None:
        if memory < 64:
            raise ConfigError(f"{memory} MiB", key="memory", expected="at least 64")
        self.kernel = kernel
        self.folder = Path(tempfile.mkdtemp(prefix="wesper-guest-"))
        """What it has on disk: its console, and requests on their way."""
        self._console = self.folder / "console"
        self._netlinks: dict[int, Netlink] = {}
        self._process: subprocess.Popen[bytes] | None = None
        theirs: socket.socket | None = None
        if frames is None and card:
            # Datagrams would wait in a queue of net.unix.max_dgram_qlen, which is 10.
            self.frames, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (self.frames, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._own_frames = theirs is not None
        wire = frames or theirs
        try:
            self._start(wire, mac, mtu, memory)
            hello = self._control.hello(boot_timeout)
            self.release: str = hello["release"]
            if kernel.modules is not None:
                folder = f"{kernel.modules}/{self.release}"
                self._control.ask("modules", folder=folder, names=list(kernel.load))
            self._set_up(mtu if wire else 0)
        except BaseException:
            self.kill()
            raise
        finally:
            if theirs is not None:
                theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def version(self) -> tuple[int, int]:
        """The kernel's version, as (6, 12)."""
        return _version(self.release)

    @property
    def pid(self) -> int:
        """Process id of the kernel on this machine."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether it has not ended by itself."""
        return self._process is not None and self._process.poll() is None

    def console(self, lines: int = _CONSOLE_LINES) -> str:
        """Return the last lines of what the kernel has said."""
        with contextlib.suppress(OSError):
            return "\n".join(self._console.read_text(errors="replace").splitlines()[-lines:])
        return ""

    # Running things

    def spawn(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
        output: Output | None = None,
    ) -> Process:
        """Start a command.

        terminal: on one of (rows, columns).   output: takes what it says, when it is waited for.
        """
        words = [os.fspath(word) for word in command]
        return Process(self._control, words, environment=environment, terminal=terminal, output=output)

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        input: bytes = b"",
        check: bool = True,
        timeout: float | None = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end and return what it said.   timeout: seconds without a word.

        Raises CalledProcessError (its note has what went to stderr) unless check is off, TimeoutError, GuestGone.
        """
        done = self.spawn(command, environment=environment).communicate(input, timeout)
        if check and done.returncode:
            failure = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            failure.add_note(done.stderr.decode(errors="replace").strip())
            raise failure
        return done

    def call(self, function: Callable[..., Any], *args: Any, timeout: float | None = 60.0, **kwargs: Any) -> Any:
        """Call a Python function in the guest and return what it returns.

        It must stand on its own, imports inside: its source is what is sent. Arguments and result are JSON.
        Raises GuestError with its traceback, GuestGone, TimeoutError.
        """
        started = self.start(function, *args, **kwargs)
        try:
            return started.result(timeout)
        except TimeoutError:
            started.kill()
            raise

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
        """Start a Python function as `call` does; its `result()` waits for it."""
        return Call(self._control, function, args, kwargs)

    # Its network

    def netlink(self, protocol: int = NETLINK_ROUTE) -> Netlink:
        """Return netlink of the guest's kernel; one for each protocol."""
        if protocol not in self._netlinks:
            self._netlinks[protocol] = netlink(self._control, protocol)
        return self._netlinks[protocol]

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> GuestSocket:
        """Return a socket of the guest, to exchange messages over: netlink of another kind, for instance."""
        return GuestSocket(self._control, family, kind, protocol)

    def add_address(self, address: str, interface: str = CARD) -> None:
        """Give an interface an address with its prefix length."""
        self.netlink().add_address(interface, ip_interface(address))

    def add_route(self, network: str, gateway: str, interface: str = CARD) -> None:
        """Send what goes to a network through a gateway."""
        self.netlink().add_route(network, ip_interface(gateway).packed, interface)

    def read(self, path: str) -> str:
        """Return what a file says, of /proc for instance.   Raises GuestError."""
        text: str = self._control.ask("read", path=path)
        return text

    def write(self, path: str, text: str) -> None:
        """Write to a file, of /proc/sys for instance.   Raises GuestError."""
        self._control.ask("write", path=path, text=text)

    def xfrm_stat(self) -> dict[str, int]:
        """Return the counters of /proc/net/xfrm_stat."""
        lines = self.read("/proc/net/xfrm_stat").splitlines()
        return {name: int(value) for name, value in map(str.split, lines)}

    # Its end

    def close(self) -> None:
        """Power off and wait for that; a guest that does not is killed. Does nothing the second time."""
        if self._process is None:
            return
        with contextlib.suppress(GuestGone):
            self._control.say({"op": "power_off", "id": 0})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self.kill()

    def kill(self) -> None:
        """End it now, with all of its processes, and remove what it had on disk."""
        process, self._process = self._process, None
        if process is not None:
            # What the guest runs are processes of this machine too, in the group of the one that was started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._control.close()
            self._control.join()
        if self._own_frames:
            self.frames.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, wire: socket.socket | None, mac: bytes, mtu: int, memory: int) -> None:
        python = os.path.realpath(sys.executable)
        if not os.access(self.kernel.binary, os.X_OK):
            raise UnsupportedError(f"kernel {self.kernel.name}", f"{self.kernel.binary} is no program that can be run")
        to_guest, ours = os.pipe()
        reading, from_guest = os.pipe()
        passed = [to_guest, from_guest]
        words = [
            str(self.kernel.binary), f"mem={memory}M",
            "root=/dev/root", "rootfstype=hostfs", "hostfs=/", "ro", "quiet", "panic=-1",
            # Stray terminals would be opened, and stop a process in the background.
            "con=null", "con0=null,fd:1", "con1=null", "ssl=null", f"ssl0=fd:{to_guest},fd:{from_guest}",
            f"umid=guest{next(_numbers)}", f"uml_dir={self.folder}",
        ]  # fmt: skip
        if wire is not None:
            passed.append(wire.fileno())
            words.append(f"{CARD}:transport=fd,fd={wire.fileno()},mac={mac.hex(':')},mtu={mtu},depth=64,gro=0")
        words += [f"init={python}", "--", "-I", "-S", str(_AGENT)]
        environment = {"PATH": "/usr/bin:/bin", "TMPDIR": _memory_folder(self.folder), "HOME": str(self.folder)}
        if _is_state_too_large(self.kernel.release):
            environment["LD_PRELOAD"] = _wide_xstate(self.folder)
        with self._console.open("wb") as console:
            try:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    pass_fds=passed,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as error:
                for fd in (ours, reading):
                    os.close(fd)
                raise UnsupportedError(f"kernel {self.kernel.name}", f"{self.kernel.binary}: {error}") from None
            finally:
                os.close(to_guest)
                os.close(from_guest)
        self._control = Control(reading, ours, self.folder, self.is_running, self._why)

    def _set_up(self, mtu: int) -> None:
        routes = self.netlink()
        routes.set_up("lo")
        if mtu:
            with contextlib.suppress(Exception):  # no IPv6 there
                self.write("/proc/sys/net/ipv6/conf/all/accept_dad", "0")
                self.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
                routes.without_link_local(CARD)
            routes.set_up(CARD)

    def _why(self) -> str:
        said = self.console()
        return f"; its console ends:\n{said}" if said else ""


def _memory_folder(folder: Path) -> str:
    """Return where a guest's memory shall lie: in memory, if it is to be had."""
    shared = Path("/dev/shm")
    return str(shared if os.access(shared, os.W_OK | os.X_OK) else folder)


def _version(release: str) -> tuple[int, int]:
    major, minor, *_ = release.replace("-", ".").split(".")
    return int(major), int(minor)


def _is_state_too_large(release: str) -> bool:
    """Tell whether this CPU's registers are more than a kernel can save, see `wide_xstate.c`."""
    if _version(release) >= (6, 13):
        return False
    with contextlib.suppress(OSError):
        return " amx_tile" in Path("/proc/cpuinfo").read_text()
    return False


def _wide_xstate(folder: Path) -> str:
    """Compile `wide_xstate.c` and return where it is.   Raises UnsupportedError."""
    library = folder / "wide_xstate.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_WIDE_XSTATE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        said = "" if done is None else f" ({done.stderr.strip().splitlines()[-1:]})"
        what = "a kernel before 6.13 on a CPU with AMX"
        raise UnsupportedError(what, f"gcc must make a small library for it: apt-get install gcc libc6-dev{said}")
    return str(library)
