"""What the loopback of a fresh network namespace needs."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct

from ..host.offloads import set_offloads

# include/uapi/linux/sockios.h, if.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFMTU, _SIOCGIFINDEX = 0x8913, 0x8914, 0x8916, 0x8922, 0x8933
_IFF_UP = 1


def raise_loopback(mtu: int, addresses: tuple[str, ...]) -> None:
    """Bring `lo` up with this MTU and further IPv6 addresses, every packet cut as on a wire.

    IPv4 needs none: all of 127.0.0.0/8 is there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sI", b"lo", mtu)
        fcntl.ioctl(control, _SIOCSIFMTU, request)
        set_offloads(control, "lo", segmentation=False)  # loopback's checksum offload can't be turned off
        flags = struct.unpack("16sH", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH", b"lo", 0)))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH", b"lo", flags | _IFF_UP))
        index = struct.unpack("16si", fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack("16si", b"lo", 0)))[1]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for address in addresses:
            fcntl.ioctl(control, _SIOCSIFADDR, ipaddress.IPv6Address(address).packed + struct.pack("Ii", 128, index))
