"""What the host says to the agent in a guest, over two pipes that are the guest's serial line."""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import os
import queue
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from ..errors import WesperError
from ..host.netlink import Netlink

T = TypeVar("T")
_ANSWER_S = 60.0
_LOOK_S = 0.5
_LINE = 1024
_CHUNK = 1 << 16


class GuestGone(WesperError):
    """The guest has ended, or does not answer."""

    exit_code = 4


class GuestError(WesperError):
    """What was asked of a guest went wrong there.   number: errno, 0 if it was no error of the kernel."""

    exit_code = 4

    def __init__(self, said: str, number: int = 0) -> None:
        self.number = number
        super().__init__(said)


class Output(Protocol):
    """Takes what a command says.   stream: "out" or "err"."""

    def __call__(self, stream: str, data: bytes, /) -> None: ...


class Control:
    """Asks the agent.   Safe to share between threads.

    reading, writing: descriptors, closed with this.   folder: for what is too long for the line; the guest reads it.
    alive: tells whether the guest runs.   why: tells the end of its console.
    """

    def __init__(
        self, reading: int, writing: int, folder: Path, alive: Callable[[], bool], why: Callable[[], str]
    ) -> None:
        self._reading, self._writing, self._folder = reading, writing, folder
        self._alive, self._why = alive, why
        self._lock = threading.Lock()
        self._last = 0
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {0: queue.SimpleQueue()}
        self._files: dict[int, Path] = {}
        self._gone = False
        self._thread = threading.Thread(target=self._read, name="guest", daemon=True)
        self._thread.start()

    def hello(self, timeout: float) -> dict[str, Any]:
        """Return what the agent says when it is ready.   Raises GuestGone."""
        value: dict[str, Any] = self._next(0, timeout)["value"]
        return value

    def ask(self, op: str, /, **words: Any) -> Any:
        """Do something that is over at once, and return its value.   Raises GuestError, GuestGone."""
        number = self.begin(op, **words)
        try:
            answer = self._next(number, _ANSWER_S)
        finally:
            self.forget(number)
        if "error" in answer:
            raise GuestError(answer["error"], answer.get("errno") or 0)
        return answer["value"]

    def begin(self, op: str, /, **words: Any) -> int:
        """Ask without waiting, and return the number of the request.   Raises GuestGone."""
        with self._lock:
            self._last += 1
            number = self._last
            self._answers[number] = queue.SimpleQueue()
        request = {"op": op, "id": number, **words}
        text = json.dumps(request)
        if len(text) > _LINE:
            # A serial line that was full once may stay so; the guest sees this machine's files.
            self._files[number] = self._folder / f"request-{number}"
            self._files[number].write_text(text)
            request = {"file": str(self._files[number])}
        self.say(request)
        return number

    def say(self, request: dict[str, Any]) -> None:
        """Send one short request for which no answer comes.   Raises GuestGone."""
        data = memoryview(json.dumps(request).encode() + b"\n")
        with self._lock:
            if self._gone or self._writing < 0:
                raise GuestGone(f"the guest has ended{self._why()}")
            try:
                while data:
                    data = data[os.write(self._writing, data) :]
            except BrokenPipeError:
                raise GuestGone(f"the guest has ended{self._why()}") from None

    def _next(self, number: int, timeout: float | None) -> dict[str, Any]:
        try:
            return self._await(number, timeout)
        except TimeoutError:
            raise GuestGone(f"the guest has not answered for {timeout:.0f} s{self._why()}") from None

    def _await(self, number: int, timeout: float | None) -> dict[str, Any]:
        """Return the next answer to a request.   Raises TimeoutError, GuestGone."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK_S if until is None else min(_LOOK_S, until - time.monotonic())
            try:
                answer = self._answers[number].get(timeout=max(left, 0))
            except queue.Empty:
                # The line does not hang up if only the kernel's first process has died.
                if not self._alive():
                    raise GuestGone(f"the guest has ended{self._why()}") from None
                if left <= 0:
                    raise TimeoutError(f"no word from the guest's job for {timeout:.0f} s") from None
                continue
            if answer is None:
                self._answers[number].put(None)
                raise GuestGone(f"the guest has ended{self._why()}")
            return answer

    def wait(self, number: int, timeout: float | None, output: Output | None = None) -> dict[str, Any]:
        """Return how a command or call has ended.   Raises GuestGone, TimeoutError if it goes on without a word."""
        while True:
            answer = self._await(number, timeout)
            for stream in ("out", "err"):
                if stream in answer and output is not None:
                    output(stream, base64.b64decode(answer[stream]))
            if "code" in answer or "error" in answer:
                self.forget(number)
                return answer

    def forget(self, number: int) -> None:
        """Drop what may still come of a request."""
        self._answers.pop(number, None)

    def close(self) -> None:
        """Hang up; the guest then powers off."""
        with self._lock:
            if self._writing >= 0:
                os.close(self._writing)
                self._writing = -1

    def join(self) -> None:
        """Wait for the reading thread; the guest must have ended."""
        self._thread.join()

    def _read(self) -> None:
        with open(self._reading, "rb") as lines:
            for line in lines:
                # What is not ours is the kernel's own on a bad day.
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    answer = json.loads(line)
                    if answer["id"] in self._files:
                        self._files.pop(answer["id"]).unlink(missing_ok=True)
                    box = self._answers.get(answer.get("id", -1))
                    if box is not None:
                        box.put(answer)
        self._gone = True
        for box in list(self._answers.values()):
            box.put(None)


class GuestSocket:
    """A socket in a guest, as far as `host.netlink.Netlink` needs one: each `recv` is one exchange."""

    def __init__(self, control: Control, family: int, kind: int, protocol: int = 0) -> None:
        self._control = control
        self._number = control.ask("socket", family=int(family), type=int(kind), protocol=protocol)
        self._unsent = b""

    def setsockopt(self, level: int, name: int, value: int) -> None:
        """Set an option."""
        self._control.ask("option", socket=self._number, level=level, name=name, value=value)

    def send(self, data: bytes) -> int:
        """Keep what is to be sent until an answer is asked for."""
        self._unsent += data
        return len(data)

    def recv(self, _octets: int) -> bytes:
        """Send what was kept, and return what comes.   Raises GuestError, also after ten seconds without anything."""
        unsent, self._unsent = self._unsent, b""
        answer: str = self._control.ask("exchange", socket=self._number, data=base64.b64encode(unsent).decode())
        return base64.b64decode(answer)

    def close(self) -> None:
        """Close it."""
        self._control.ask("close", socket=self._number)


def netlink(control: Control, protocol: int) -> Netlink:
    """Return netlink of a guest's kernel."""
    opened = GuestSocket(control, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    return Netlink(cast(socket.socket, opened))


class Call:
    """A Python function that runs in a guest."""

    def __init__(self, control: Control, function: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> None:
        source = textwrap.dedent(inspect.getsource(function))
        self._name, self._control = function.__name__, control
        self._number = control.begin("call", source=source, name=self._name, args=list(args), kwargs=kwargs)

    def result(self, timeout: float | None = 60.0) -> Any:
        """Return what the function returned.   Raises GuestError with its traceback, GuestGone, TimeoutError."""
        answer = self._control.wait(self._number, timeout)
        if "error" in answer:
            raise GuestError(f"{self._name}: {answer['error']}")
        if "value" not in answer:
            raise GuestError(f"{self._name} ended with code {answer['code']} before it returned")
        return answer["value"]

    def kill(self) -> None:
        """End it; its result is then an error."""
        self._control.ask("kill", job=self._number, signal=int(signal.SIGKILL))


class Process:
    """A command that runs in a guest.   output: takes what it says; without one it is collected for `communicate`."""

    def __init__(
        self,
        control: Control,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
        output: Output | None = None,
    ) -> None:
        self._control, self.args = control, list(argv)
        self._collected = {"out": b"", "err": b""}
        self._output = output or self._collect
        self._number = control.begin(
            "spawn", argv=self.args, environment=dict(environment or {}), terminal=list(terminal) if terminal else None
        )

    def write(self, data: bytes | None) -> None:
        """Give it input; None ends it."""
        for at in range(0, len(data or b""), _CHUNK):
            text = base64.b64encode(data[at : at + _CHUNK]).decode() if data else ""
            self._control.ask("input", job=self._number, data=text)
        if data is None:
            self._control.ask("input", job=self._number, data=None)

    def resize(self, terminal: tuple[int, int]) -> None:
        """Tell it that its terminal now has so many rows and columns."""
        self._control.ask("resize", job=self._number, terminal=list(terminal))

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its children."""
        self._control.ask("kill", job=self._number, signal=int(number))

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, negative for a signal.   timeout: seconds without a word.

        Raises TimeoutError, GuestGone.
        """
        answer = self._control.wait(self._number, timeout, self._output)
        if "error" in answer:
            raise GuestError(answer["error"], answer.get("errno") or 0)
        return int(answer["code"])

    def communicate(self, input: bytes = b"", timeout: float | None = None) -> subprocess.CompletedProcess[bytes]:
        """Give it all its input and return how it ended and what it said."""
        if input:
            self.write(input)
        self.write(None)
        code = self.wait(timeout)
        return subprocess.CompletedProcess(self.args, code, self._collected["out"], self._collected["err"])

    def _collect(self, stream: str, data: bytes) -> None:
        self._collected[stream] += data
