"""Run a command inside a lab: `python -I -S join.py USER PID NET -- COMMAND...`; descriptors of namespaces, -1 is none.

Run as a program by path, for speed with the standard library alone. It stays beside the command, in the caller's
session and terminal, hands signals on, and ends as the command ends. If it is killed, the command is.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import NoReturn

if __name__ == "__main__":  # by path: no package around
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from keeper import die_with_parent, setns  # type: ignore[import-not-found]
else:
    from .keeper import die_with_parent, setns

HANDED_ON = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1,
    signal.SIGUSR2, signal.SIGWINCH,
}  # fmt: skip
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def join(user: int, pid: int, net: int) -> int:
    """Join namespaces and fork, as new PIDs ask for.

    Returns 0 in the child, which dies with its parent, and the child's PID in the parent.
    The process must have one thread.   Raises OSError.
    """
    for descriptor in (user, pid, net):
        if descriptor >= 0:
            setns(descriptor)
    child = os.fork()
    if child == 0:
        die_with_parent()
    return child


def wait(child: int) -> NoReturn:
    """Hand signals on to the child until it ends, and end the same way.   The signals must be blocked."""
    while True:
        came = signal.sigwaitinfo(HANDED_ON)
        if came.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                end_like(status)
        # The terminal's own signals (si_code > 0) reach the child by themselves: it is in the same process group.
        elif came.si_code <= 0:
            os.kill(child, came.si_signo)


def end_like(status: int) -> NoReturn:
    """End with the exit code or by the signal that a wait status tells."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main() -> NoReturn:
    """Join and run."""
    descriptors = [int(word) for word in sys.argv[1:4]]
    command = sys.argv[5:]
    for descriptor in descriptors:
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    try:
        child = join(*descriptors)
    except OSError as error:
        print(f"wesper: can't enter the lab: {error.strerror}", file=sys.stderr)
        os._exit(NOT_EXECUTABLE)
    if child:
        wait(child)
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
