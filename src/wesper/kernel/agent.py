"""Init of a guest: does what is asked of it in JSON lines over the serial line `ttyS0`.

Requests have an `op` and an `id`; answers bear the id with a `value` or an `error`, commands also `out` and `err` as
they come and a `code` at their end. Octets are Base64. When the line hangs up, the guest powers off. The user id of the
host's process decides what is to be seen of its files; here all is root's.

Standard library alone, and little of it: this runs before anything else does.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import json
import os
import pty
import select
import selectors
import signal
import socket
import struct
import termios
import traceback
import tty
from typing import Any, NoReturn

_LINE = "/dev/ttyS0"
_POWER_OFF = 0x4321FEDC  # include/uapi/linux/reboot.h
_MS_NOSUID, _MS_NODEV = 2, 4
_CHUNK = 1 << 15
_ANSWER_MS = 10_000
_libc = ctypes.CDLL(None, use_errno=True)


class Job:
    """A command or a call that runs.   fds: from which its output comes, by the name that it bears in answers."""

    def __init__(self, number: int, pid: int, fds: dict[int, str], stdin: int = -1, result: int = -1) -> None:
        self.number, self.pid, self.fds, self.stdin, self.result = number, pid, fds, stdin, result
        self.waiting = bytearray()
        self.closing = False
        self.answer = b""


class Agent:
    """Reads requests, runs jobs, reaps children."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._input = b""
        self._jobs: dict[int, Job] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(line, selectors.EVENT_READ, self._read_requests)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, self._reap)

    def run(self) -> NoReturn:
        """Serve until power-off."""
        self.tell({"id": 0, "value": {"release": os.uname().release, "pid": os.getpid()}})
        while True:
            for key, _ in self._selector.select():
                if key.fd in self._selector.get_map():  # one before it may have been the end of this one's job
                    key.data(key.fd)

    def tell(self, message: dict[str, Any]) -> None:
        """Send one line."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(self._line, data) :]

    def _read_requests(self, line: int) -> None:
        try:
            data = os.read(line, 1 << 16)
        except OSError:
            data = b""
        if not data:
            power_off()
        *lines, self._input = (self._input + data).split(b"\n")
        for text in lines:
            request = json.loads(text)
            if "file" in request:  # it was too long for the line
                with open(request["file"]) as file:
                    request = json.load(file)
            try:
                answer = getattr(self, "do_" + request.pop("op"))(**request)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                self.tell({"id": request["id"], "error": said, "errno": getattr(error, "errno", None)})
            else:
                if answer is not None:
                    self.tell({"id": request["id"], "value": answer["value"]})

    # Files and modules

    def do_read(self, id: int, path: str) -> dict[str, Any]:
        """Return what a file says."""
        with open(path) as file:
            return {"value": file.read()}

    def do_write(self, id: int, path: str, text: str) -> dict[str, Any]:
        """Write to a file, of /proc/sys for instance."""
        with open(path, "w") as file:
            file.write(text)
        return {"value": None}

    def do_modules(self, id: int, folder: str, names: list[str]) -> dict[str, Any]:
        """Load modules and what they stand on."""
        load_modules(folder, names)
        return {"value": None}

    # Sockets that the host works with

    def do_socket(self, id: int, family: int, type: int, protocol: int) -> dict[str, Any]:
        """Open a socket."""
        opened = socket.socket(family, type, protocol)
        self._sockets[opened.fileno()] = opened
        return {"value": opened.fileno()}

    def do_option(self, id: int, socket: int, level: int, name: int, value: int) -> dict[str, Any]:
        """Set an option of a socket."""
        self._sockets[socket].setsockopt(level, name, value)
        return {"value": None}

    def do_exchange(self, id: int, socket: int, data: str) -> dict[str, Any]:
        """Send, unless there is nothing to be sent, and receive."""
        opened = self._sockets[socket]
        if data:
            opened.send(base64.b64decode(data))
        if not select.select([opened], [], [], _ANSWER_MS / 1000)[0]:
            raise TimeoutError("nothing came")
        return {"value": _text(opened.recv(1 << 18))}

    def do_close(self, id: int, socket: int) -> dict[str, Any]:
        """Close a socket."""
        self._sockets.pop(socket).close()
        return {"value": None}

    # Commands and calls

    def do_spawn(self, id: int, argv: list[str], environment: dict[str, str], terminal: list[int] | None) -> None:
        """Start a command, on a terminal of (rows, columns) or with pipes."""
        if terminal is not None:
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal, 0, 0))
            pid = os.fork()
            if pid == 0:
                _become(argv, environment, (theirs, theirs, theirs), terminal=True)
            os.close(theirs)
            self._start(Job(id, pid, {ours: "out"}, stdin=os.dup(ours)))
            return
        (stdin, feed), (out, out_end), (err, err_end) = os.pipe(), os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(argv, environment, (stdin, out_end, err_end))
        for each in (stdin, out_end, err_end):
            os.close(each)
        self._start(Job(id, pid, {out: "out", err: "err"}, stdin=feed))

    def do_call(self, id: int, source: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Start a Python function of which the source is given; what it returns must be JSON."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.closerange(3, writing)  # the line, and others' pipes, which would not end
            os.closerange(writing + 1, 4096)
            try:
                names: dict[str, Any] = {"__name__": "call"}
                exec(compile(source, f"<{name}>", "exec"), names)
                answer = {"value": names[name](*args, **kwargs)}
            except BaseException as error:
                answer = {"error": "".join(traceback.format_exception(error)).rstrip()}
            with contextlib.suppress(OSError), open(writing, "wb") as file:
                file.write(json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        self._start(Job(id, pid, {}, result=reading))

    def do_input(self, id: int, job: int, data: str | None) -> dict[str, Any]:
        """Give a command input; None ends it."""
        found = self._jobs.get(job)
        if found is not None and found.stdin >= 0:
            found.closing = data is None
            found.waiting += base64.b64decode(data or "")
            self._feed(found.stdin)
        return {"value": None}

    def do_resize(self, id: int, job: int, terminal: list[int]) -> dict[str, Any]:
        """Tell a command on a terminal of its new size."""
        for fd in self._jobs[job].fds if job in self._jobs else ():
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal, 0, 0))
        return {"value": None}

    def do_kill(self, id: int, job: int, signal: int) -> dict[str, Any]:
        """Send a signal to a job and all that it has started in its session."""
        if job in self._jobs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._jobs[job].pid, signal)
        return {"value": None}

    def do_power_off(self, id: int) -> None:
        """End the guest."""
        power_off()

    def _start(self, job: Job) -> None:
        self._jobs[job.number] = job
        for fd in job.fds:
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, self._read_output)
        if job.result >= 0:
            os.set_blocking(job.result, False)
            self._selector.register(job.result, selectors.EVENT_READ, self._read_result)
        if job.stdin >= 0:
            os.set_blocking(job.stdin, False)

    def _read_output(self, fd: int) -> None:
        job = next(each for each in self._jobs.values() if fd in each.fds)
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose other end is closed
            data = b""
        if data:
            self.tell({"id": job.number, job.fds[fd]: _text(data)})
        else:
            self._forget(fd)
            del job.fds[fd]

    def _read_result(self, fd: int) -> None:
        job = next(each for each in self._jobs.values() if each.result == fd)
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 1 << 16)
            job.answer += data
            if not data:
                self._forget(fd)
                job.result = -1

    def _feed(self, fd: int) -> None:
        job = next(each for each in self._jobs.values() if each.stdin == fd)
        with contextlib.suppress(BlockingIOError):
            try:
                while job.waiting:
                    del job.waiting[: os.write(fd, job.waiting)]
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
                job.waiting.clear()  # it does not read any more
        registered = fd in self._selector.get_map()
        if job.waiting and not registered:
            self._selector.register(fd, selectors.EVENT_WRITE, self._feed)
        elif not job.waiting and registered:
            self._selector.unregister(fd)
        if job.closing and not job.waiting:
            os.close(fd)
            job.stdin = -1

    def _reap(self, wakeup: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                job = next((each for each in self._jobs.values() if each.pid == pid), None)
                if job is not None:
                    self._finish(job, os.waitstatus_to_exitcode(status))

    def _finish(self, job: Job, code: int) -> None:
        """Say all that a job has said, and how it ended."""
        for fd in list(job.fds):
            while fd in job.fds and select.select([fd], [], [], 0)[0]:
                self._read_output(fd)
        while job.result >= 0 and select.select([job.result], [], [], 0)[0]:
            self._read_result(job.result)
        for fd in (*job.fds, job.result):
            if fd >= 0:
                self._forget(fd)
        if job.stdin >= 0:
            if job.stdin in self._selector.get_map():
                self._selector.unregister(job.stdin)
            os.close(job.stdin)
        del self._jobs[job.number]
        self.tell({"id": job.number, "code": code, **(json.loads(job.answer) if job.answer else {})})

    def _forget(self, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)


def load_modules(folder: str, names: list[str]) -> None:
    """Load modules by name with all that they need.   folder: where modules.dep is.   Raises OSError."""
    needs: dict[str, tuple[str, list[str]]] = {}
    with open(f"{folder}/modules.dep") as file:
        for line in file:
            path, _, others = line.partition(":")
            needs[_module(path)] = path, others.split()
    loaded: set[str] = set()

    def load(name: str) -> None:
        if name in loaded or name not in needs:  # one that is not there is built in, or not of this kernel
            return
        loaded.add(name)
        path, others = needs[name]
        for each in reversed(others):
            load(_module(each))
        fd = os.open(f"{folder}/{path}", os.O_RDONLY)
        try:
            ctypes.set_errno(0)
            if _libc.syscall(ctypes.c_long(_FINIT_MODULE), fd, b"", 0) and ctypes.get_errno() != 17:  # EEXIST
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        finally:
            os.close(fd)

    for name in names:
        load(name.replace("-", "_"))


_FINIT_MODULE = {"x86_64": 313, "i686": 350}.get(os.uname().machine, 273)


def mount(kind: str, target: str, options: str = "") -> None:
    """Mount a file system of the kernel's own.   Raises OSError."""
    words = [each.encode() for each in (kind, target, kind)]
    if _libc.mount(*words, _MS_NOSUID | (0 if kind == "devtmpfs" else _MS_NODEV), options.encode() or None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def power_off() -> NoReturn:
    """End the guest; there is nothing to be written back."""
    _libc.reboot(_POWER_OFF)
    os._exit(1)


def _module(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _become(
    argv: list[str], environment: dict[str, str], stdio: tuple[int, int, int], *, terminal: bool = False
) -> NoReturn:
    """In a fork: become a command."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.closerange(3, 256)
        os.execvpe(argv[0], argv, {**os.environ, **environment})
    except BaseException as error:
        os.write(2, f"{argv[0]}: {getattr(error, 'strerror', error)}\n".encode())
    os._exit(127)


def main() -> None:
    """Make the guest a place where commands run, and serve."""
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("tmpfs", "/run", "mode=755")
    if not os.path.exists(_LINE):
        mount("devtmpfs", "/dev")
    for folder in ("/dev/pts", "/dev/shm", "/run/home"):
        os.makedirs(folder, exist_ok=True)
    mount("devpts", "/dev/pts", "ptmxmode=666")
    mount("tmpfs", "/dev/shm")
    if os.path.exists("/proc/sys/kernel/modprobe"):
        # There is no /sbin/modprobe that knows of these modules; the host names those it wants.
        with open("/proc/sys/kernel/modprobe", "w") as file:
            file.write("\n")
    os.environ.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME="/run/home",
        TMPDIR="/run",
        LANG="C.UTF-8",
    )
    socket.sethostname("guest")
    line = os.open(_LINE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(line)
    Agent(line).run()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()  # to the console, which the host keeps
        power_off()
