"""Python functions run inside a lab's host, in a forked copy of this process."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from ..errors import WesperError
from .client import Client
from .join import BLOCKED, join, wait

T = TypeVar("T")


class CallDied(WesperError):
    """A function in a host ended without an answer: by a signal, by `os._exit`, or with its lab."""

    exit_code = 4


class Call(Generic[T]):
    """A function that runs in a host."""

    def __init__(self, client: Client, namespace: int, function: Callable[..., T], args: Any, kwargs: Any) -> None:
        self._name = getattr(function, "__qualname__", repr(function))
        self._done: tuple[bool, Any] | None = None
        self._data = b""
        reading, writing = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # what is buffered now would be printed twice
        with warnings.catch_warnings():
            # Python 3.12 warns of fork beside threads. The copy uses its one thread alone, and takes none of the
            # others' locks unless the function does.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            os.close(reading)
            _child(client, namespace, writing, lambda: function(*args, **kwargs))
        os.close(writing)
        self._reading = reading

    def result(self, timeout: float | None = None) -> T:
        """Return what the function returned, or raise what it raised.   timeout: seconds.

        Raises TimeoutError, and CallDied if it ended without an answer.
        """
        if self._done is None:
            end = None if timeout is None else time.monotonic() + timeout
            while True:
                wait_for = None if end is None else max(0.0, end - time.monotonic())
                if not select.select([self._reading], [], [], wait_for)[0]:
                    raise TimeoutError(f"{self._name} has not ended")
                data = os.read(self._reading, 1 << 16)
                if not data:
                    break
                self._data += data
            self._finish()
        assert self._done is not None
        fine, value = self._done
        if not fine:
            raise value
        answer: T = value
        return answer

    def kill(self) -> None:
        """End it now, and wait for that.   Does nothing if it has ended."""
        if self._done is None:
            os.kill(self._pid, signal.SIGKILL)
            self._data = b""
            self._finish()

    def _finish(self) -> None:
        os.close(self._reading)
        _, status = os.waitpid(self._pid, 0)
        try:
            self._done = pickle.loads(self._data)
        except (EOFError, pickle.UnpicklingError):
            code = os.waitstatus_to_exitcode(status)
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            self._done = False, CallDied(f"{self._name} ended {how} before it returned")
        except Exception as error:  # of an exception's own constructor
            self._done = False, CallDied(f"{self._name} answered what can't be read here: {error!r}")


def _child(client: Client, namespace: int, writing: int, function: Callable[[], Any]) -> NoReturn:
    """Join, call, answer. The first copy stays outside of the lab, for new PIDs are for children alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    client.forget()
    try:
        pipes = join(client.user, client.pid, namespace)
    except OSError as error:
        _answer(writing, (False, CallDied(f"can't enter the lab: {error.strerror}")))
        os._exit(1)
    if pipes:
        wait(pipes)
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            answer = True, function()
        except BaseException as error:
            error.add_note("In the host: " + "".join(traceback.format_exception(error)).rstrip())
            answer = False, error
        _answer(writing, answer)
        code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _answer(writing: int, answer: tuple[bool, Any]) -> None:
    try:
        data = pickle.dumps(answer)
    except Exception as error:
        data = pickle.dumps((False, TypeError(f"{answer[1]!r} can't be brought back: {error}")))
    with open(writing, "wb") as file:
        file.write(data)
