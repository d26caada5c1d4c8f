"""A network namespace for this process, and the few things that its loopback needs; no tools, no privilege."""

from __future__ import annotations

import array
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct

from ..errors import UnsupportedError

# include/uapi/linux/sched.h, sockios.h, ethtool.h, if.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFMTU, _SIOCGIFINDEX, _SIOCETHTOOL = (
    0x8913, 0x8914, 0x8916, 0x8922, 0x8933, 0x8946,
)  # fmt: skip
_IFF_UP = 1
_SEGMENTATION = (0x1F, 0x24, 0x2C)  # ETHTOOL_STSO, SGSO, SGRO; loopback's checksum offload can't be turned off


def enter() -> None:
    """Move this process into a network namespace of its own, inside a user namespace unless it is root.

    The process must have one thread.   Raises UnsupportedError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    flags = _CLONE_NEWNET if uid == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    if libc.unshare(flags) != 0 and (uid != 0 or libc.unshare(_CLONE_NEWNET | _CLONE_NEWUSER) != 0):
        why = os.strerror(ctypes.get_errno())
        raise UnsupportedError(
            "a network namespace", f"unshare says {why!r}; allow user namespaces (sysctl user.max_user_namespaces)"
        )
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def raise_loopback(mtu: int, addresses: tuple[str, ...]) -> None:
    """Bring `lo` up with this MTU and further IPv6 addresses, every packet cut as on a wire.

    IPv4 needs none: all of 127.0.0.0/8 is there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sI", b"lo", mtu)
        fcntl.ioctl(control, _SIOCSIFMTU, request)
        for command in _SEGMENTATION:
            value = array.array("I", [command, 0])  # struct ethtool_value: command, off
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP", b"lo", value.buffer_info()[0]))
        flags = struct.unpack("16sH", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH", b"lo", 0)))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH", b"lo", flags | _IFF_UP))
        index = struct.unpack("16si", fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack("16si", b"lo", 0)))[1]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for address in addresses:
            fcntl.ioctl(control, _SIOCSIFADDR, ipaddress.IPv6Address(address).packed + struct.pack("Ii", 128, index))
