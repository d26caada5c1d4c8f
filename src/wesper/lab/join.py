"""Run a command inside a lab: `python -I -S join.py USER PID NET MODE -- COMMAND...`.

USER, PID and NET are descriptors of namespaces, -1 is none. MODE is plain, or terminal: the command then has the
terminal to itself, as job control inside of it needs: there the number of the process group outside is not known.

Run as a program by path, for speed with the standard library alone. It stays beside the command, in the caller's
session and terminal, hands signals on, and ends as the command ends. If it is killed, the command is.

The command's parent is a supervisor inside the lab, whose parent is the lab's init. So the init alone reaps, and a lab
can end whatever becomes of the processes outside: a zombie would keep its PID namespace from ending.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from typing import NoReturn

if __name__ == "__main__":  # by path: no package around
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from syscalls import die_with_parent, setns  # type: ignore[import-not-found]
else:
    from .syscalls import die_with_parent, setns

HANDED_ON = {
    signal.SIGCONT, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGWINCH,
}  # fmt: skip
BLOCKED = {*HANDED_ON, signal.SIGIO}
"""Signals that whoever calls `join` must have blocked."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_MAX_DESCRIPTORS = 1 << 20
_KILLED = 9  # wait status of a process killed by SIGKILL
_Pipes = tuple[int, int]


def join(user: int, pid: int, net: int, *, resume: bool = False) -> _Pipes | None:
    """Join namespaces and fork.   Returns None in the new process, and in the caller what `wait` needs.

    resume: whether the new process is not to stay stopped, since nobody would notice.
    The process must have one thread.   Raises OSError.
    """
    for descriptor in (user, pid, net):
        if descriptor >= 0:
            setns(descriptor)
    status_out, status_in = os.pipe()
    signals_out, signals_in = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)  # and the lab's init is the parent of the next
        os.close(status_out)
        os.close(signals_in)
        child = os.fork()
        if child:
            _supervise(child, status_in, signals_out, resume)
        die_with_parent()
        os.close(status_in)
        os.close(signals_out)
        return None
    os.close(status_in)
    os.close(signals_out)
    os.waitpid(between, 0)
    return status_out, signals_in


def wait(pipes: _Pipes, *, terminal: bool = False) -> NoReturn:
    """Hand signals on to the new process until it ends, and end the same way.

    terminal: take the terminal back before.
    """
    status_out, signals_in = pipes
    _let_go(pipes)
    os.set_blocking(status_out, False)
    fcntl.fcntl(status_out, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(status_out, fcntl.F_SETFL, fcntl.fcntl(status_out, fcntl.F_GETFL) | os.O_ASYNC)
    while True:
        try:
            said = os.read(status_out, 4)
        except BlockingIOError:
            came = signal.sigwaitinfo(BLOCKED)
            # The terminal's own signals (si_code > 0) reach the command by themselves: it is in this process group.
            if came.si_signo in HANDED_ON and came.si_code <= 0:
                try:
                    os.write(signals_in, bytes([came.si_signo]))
                except BrokenPipeError:
                    continue
        else:
            if terminal:
                _take_terminal(os.open("/dev/tty", os.O_RDWR))
            end_like(int.from_bytes(said, "little") if said else _KILLED)  # nothing: the lab has ended


def end_like(status: int) -> NoReturn:
    """End with the exit code or by the signal that a wait status tells."""
    if os.WIFSIGNALED(status):
        import resource  # rarely needed, and this program is to start quickly

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _supervise(child: int, status_in: int, signals_out: int, resume: bool) -> NoReturn:
    """Tell how the child ends; kill it if nobody listens any more."""
    _let_go((status_in, signals_out))
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    while True:
        ended, status = os.waitpid(child, os.WNOHANG | (os.WUNTRACED if resume else 0))
        if ended and os.WIFSTOPPED(status):
            os.kill(child, signal.SIGCONT)
        elif ended:
            try:
                os.write(status_in, status.to_bytes(4, "little"))
            finally:
                os._exit(0)
        if signals_out in select.select([signals_out, woken], [], [])[0]:
            came = os.read(signals_out, 1)
            os.kill(child, came[0] if came else signal.SIGKILL)
            if not came:
                os._exit(0)  # the lab's init reaps the child
        else:
            os.read(woken, 64)


def _take_terminal(descriptor: int) -> None:
    """Make this process's group the one that the terminal listens and talks to."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    os.tcsetpgrp(descriptor, os.getpgrp())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_go(kept: _Pipes) -> None:
    """Close all other descriptors, so that whoever waits for their end waits for the command's alone."""
    start = 3
    for descriptor in (*sorted(kept), _MAX_DESCRIPTORS):
        os.closerange(start, descriptor)
        start = descriptor + 1
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def main() -> NoReturn:
    """Join and run."""
    descriptors = [int(word) for word in sys.argv[1:4]]
    terminal = sys.argv[4] == "terminal" and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    command = sys.argv[6:]
    for descriptor in descriptors:
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        pipes = join(*descriptors, resume=terminal)
    except OSError as error:
        print(f"wesper: can't enter the lab: {error.strerror}", file=sys.stderr)
        os._exit(NOT_EXECUTABLE)
    if pipes:
        wait(pipes, terminal=terminal)
    if terminal:
        os.setpgid(0, 0)
        _take_terminal(0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"wesper: {command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


if __name__ == "__main__":
    main()
