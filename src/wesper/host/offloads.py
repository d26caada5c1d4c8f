"""What the kernel would leave to a network card: checksums, and cutting big packets into segments."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

# include/uapi/linux/sockios.h, ethtool.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM, _ETHTOOL_SSG, _ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO = 0x17, 0x19, 0x1F, 0x24, 0x2C


def set_offloads(
    control: socket.socket, name: str, *, segmentation: bool | None = None, checksum: bool | None = None
) -> None:
    """Turn offloads of an interface on or off; None leaves them.

    control: any socket of the interface's network namespace.   segmentation: TSO, GSO and GRO; without them every
    packet is as on a wire.   checksum: off, the kernel fills checksums in, and UDP super-packets (UDP_SEGMENT) are cut.
    """
    wanted = []
    if checksum:  # before segmentation, which needs it; and after, when it goes
        wanted += [(_ETHTOOL_STXCSUM, True), (_ETHTOOL_SSG, True)]
    if segmentation is not None:
        wanted += [(command, segmentation) for command in (_ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO)]
    if checksum is False:
        wanted.append((_ETHTOOL_STXCSUM, False))
    for command, on in wanted:
        value = array.array("I", [command, on])  # struct ethtool_value
        fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP", name.encode(), value.buffer_info()[0]))
