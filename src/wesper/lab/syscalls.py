"""What Python 3.11 has no call for. Of the standard library alone, little of it: for programs that start quickly."""

from __future__ import annotations

import ctypes
import os
import signal

# include/uapi/linux/sched.h, prctl.h
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> bool:
    """Leave namespaces for new ones, in a new user namespace if need be, where this process's user is root.

    flags: CLONE_NEWPID and CLONE_NEWNET. The process must have one thread.   Returns whether there is a new user
    namespace.   Raises OSError.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and _libc.unshare(flags) == 0:
        return False
    if _libc.unshare(flags | CLONE_NEWUSER) != 0:
        _fail()
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return True


def setns(descriptor: int) -> None:
    """Move this process into the namespace of a descriptor, from now on or, of PIDs, its children.   Raises OSError."""
    if _libc.setns(descriptor, 0) != 0:
        _fail()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
