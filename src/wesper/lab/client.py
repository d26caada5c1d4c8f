"""A connection to a lab's keeper: starting one, finding those that run, asking for namespaces and sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import ConfigError, UnsupportedError, WesperError

ABSTRACT = "wesper/lab/"
"""What the name of a lab's socket begins with; an abstract one (unix(7)), which vanishes with its process."""
_KEEPER = Path(__file__).with_name("keeper.py")
_JOIN = Path(__file__).with_name("join.py")
_MAX_MESSAGE = 1 << 20
_MAX_DESCRIPTORS = 4


class LabGone(WesperError):
    """The lab, or its keeper, has ended."""

    exit_code = 4


def interpreter(script: Path) -> list[str]:
    """Return the words that run one of the programs that need the standard library alone, quickly."""
    return [sys.executable, "-I", "-S", str(script)]


def running() -> list[str]:
    """Return the names of the labs that run, of any user; those of another network namespace are not seen."""
    found = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[7].startswith(f"@{ABSTRACT}"):
            found.add(words[7][len(ABSTRACT) + 1 :])
    return sorted(found)


class Client:
    """Asks a keeper.   Safe to share between threads."""

    def __init__(self, control: socket.socket, name: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self._control = control
        self._process = process
        self._lock = threading.Lock()
        # A keeper that was started here says hello, or what it lacks, by itself.
        _, descriptors = self.ask({"op": "hello"} if process is None else None)
        self.pid, self.user = descriptors[0], descriptors[1] if len(descriptors) > 1 else -1

    @classmethod
    def start(cls, name: str | None) -> Self:
        """Start a keeper.   name: None makes one of the process id.   Raises UnsupportedError without namespaces."""
        listener, name = _listen(name)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            owner = os.pidfd_open(os.getpid())
        except OSError:  # some containers forbid it; the control socket tells of our end too
            owner = -1
        passed = [theirs.fileno(), listener.fileno(), owner]
        with listener, theirs:
            process = subprocess.Popen(
                [*interpreter(_KEEPER), *map(str, passed)],
                stdin=subprocess.DEVNULL,
                pass_fds=[descriptor for descriptor in passed if descriptor >= 0],
                start_new_session=True,  # an interrupt at the terminal is for the owner, who then ends the lab
            )
        if owner >= 0:
            os.close(owner)
        try:
            return cls(ours, name, process)
        except OSError as error:
            ours.close()
            process.wait()
            raise UnsupportedError(
                "a network namespace",
                f"unshare says {error.strerror!r}; allow user namespaces (sysctl user.max_user_namespaces, "
                "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or be root",
            ) from None

    @classmethod
    def connect(cls, name: str | None = None) -> Self:
        """Connect to a running lab.   name: None is that of WESPER_LAB, else the only one.   Raises ConfigError."""
        name = name or os.environ.get("WESPER_LAB")
        labs = running()
        if name is None:
            if len(labs) != 1:
                what = f"{len(labs)} labs are running" if labs else "no lab is running"
                raise ConfigError(what, key="lab", expected=f"one of {', '.join(labs)}" if labs else "`wesper lab run`")
            name = labs[0]
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            control.connect(f"\0{ABSTRACT}{name}")
            credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
            if struct.unpack("iII", credentials)[1] != os.geteuid():  # anyone may take an abstract name
                raise PermissionError
            return cls(control, name)
        except (OSError, LabGone):
            control.close()
            labs = [lab for lab in labs if lab != name]
            expected = f"one of {', '.join(labs)}" if labs else "one that you have started"
            raise ConfigError(f"no lab {name} to be had", key="lab", expected=expected) from None

    def ask(self, request: dict[str, Any] | None) -> tuple[dict[str, Any], list[int]]:
        """Send a request, if there is one, and return answer and descriptors.

        Raises OSError as the keeper had it, or LabGone.
        """
        with self._lock:
            try:
                if request is not None:
                    self._control.send(json.dumps(request).encode())
                data, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, _MAX_DESCRIPTORS)
            except (ConnectionError, BrokenPipeError):
                data, descriptors = b"", []
            except OSError as error:
                raise LabGone(f"the lab {self.name} is closed") if self._control.fileno() < 0 else error from None
        if not data:
            raise LabGone(f"the lab {self.name} has ended")
        answer = json.loads(data)
        if "error" in answer:
            raise OSError(answer["error"], os.strerror(answer["error"]))
        return answer, descriptors

    def namespace(self, name: str, *, create: bool = False) -> int:
        """Return a descriptor of a network namespace.   Raises FileNotFoundError."""
        return self.ask({"op": "namespace", "name": name, "create": create})[1][0]

    def socket(self, name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket that was opened in a network namespace, and stays there."""
        request = {"op": "socket", "name": name, "family": int(family), "type": int(kind), "protocol": protocol}
        return socket.socket(fileno=self.ask(request)[1][0])

    def sysctl(self, name: str, values: dict[str, str]) -> dict[str, int]:
        """Set sysctls (paths below /proc/sys) in a network namespace.   Returns errno of those that failed."""
        failed: dict[str, int] = self.ask({"op": "sysctl", "name": name, "values": values})[0]["failed"]
        return failed

    def describe(self, description: dict[str, Any]) -> None:
        """Leave a description with the keeper, for others to read."""
        self.ask({"op": "describe", "text": json.dumps(description)})

    def description(self) -> dict[str, Any]:
        """Return the description that was left.   Raises ConfigError if none was yet."""
        text = self.ask({"op": "description"})[0]["text"]
        if not text:
            raise ConfigError(f"lab {self.name} is still being made", key="lab")
        return dict(json.loads(text))

    def command(self, namespace: int, words: list[str], *, terminal: bool = False) -> list[str]:
        """Return the words that run a command in a network namespace; `descriptors` must be passed along.

        terminal: give it the terminal, if there is one, to itself.
        """
        mode = "terminal" if terminal else "plain"
        return [*interpreter(_JOIN), *map(str, (self.user, self.pid, namespace)), mode, "--", *words]

    def descriptors(self, namespace: int) -> list[int]:
        """Return the descriptors that `command` needs."""
        return [descriptor for descriptor in (self.user, self.pid, namespace) if descriptor >= 0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def forget(self) -> None:
        """In a forked copy of this process: let go of the lab without ending it."""
        self._control.close()

    def close(self) -> None:
        """End the connection; if the keeper was started here, the lab with all that runs in it, and wait for that."""
        if self._control.fileno() < 0:
            return
        if self._process is not None:
            with contextlib.suppress(OSError, LabGone):
                self.ask({"op": "end"})
        self._control.close()
        for descriptor in (self.pid, self.user):
            if descriptor >= 0:
                os.close(descriptor)
        if self._process is not None:
            self._process.wait()


def _listen(name: str | None) -> tuple[socket.socket, str]:
    """Return a socket where `Client.connect` finds the lab, and the lab's name."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for number in range(1, 1000):
        candidate = name or (f"{os.getpid()}" if number == 1 else f"{os.getpid()}.{number}")
        with contextlib.suppress(OSError):
            listener.bind(f"\0{ABSTRACT}{candidate}")
            listener.listen()
            return listener, candidate
        if name:
            break
    listener.close()
    raise ConfigError(f"there is a lab {name} already", key="name", expected="another name")
