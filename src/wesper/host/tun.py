"""The protected side: an interface of this host whose packets come to us instead of going to a card.

A TUN device where /dev/net/tun can be opened. Where it can't (containers, ordinary users of some distributions) a veth
pair takes its place: its near end is the interface, its far end lies in a network namespace that nobody else sees and
is read by a packet socket. Both vanish with the process that made them, killed or not.

Constants: include/uapi/linux/if_tun.h, if_packet.h, virtio_net.h, sched.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Final, Literal

from ..errors import ConfigError, PermissionNeeded, UnsupportedError
from .netlink import NETLINK_ROUTE, Netlink, NetlinkError
from .offloads import set_offloads

DeviceKind = Literal["auto", "tun", "veth"]

VNET_HEADER_OCTETS: Final = 10  # struct virtio_net_hdr, native byte order
ETHERNET_OCTETS: Final = 14
IPV6_MIN_MTU: Final = 1280
"""RFC 8200 §5."""
ALIAS: Final = "wesper"
QUEUE_PACKETS: Final = 4096  # TUN's own 500 lose bursts of TCP

_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN, _TUN_F_USO4, _TUN_F_USO6 = 1, 2, 4, 8, 0x20, 0x40
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_QDISC_BYPASS, _PACKET_IGNORE_OUTGOING = 263, 15, 20, 23
_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_F_NEEDS_CSUM, _GSO_UDP_L4 = 1, 5
_CLONE_NEWNET = 0x40000000
_MAX_PACKET = 65535 + ETHERNET_OCTETS
_UNNAMED_S = 0.5  # its process may have been killed before it could say whose it is
_GONE_S = 5.0  # a namespace whose last process was killed is taken apart behind its back


@dataclass(eq=False)
class Device:
    """An interface of this host, and the descriptors that its packets are read from and written to.

    queues: one descriptor a queue, non-blocking; each read and each write is one packet, or, with offloads, one
    super-packet.
    vnet_header: each begins with VNET_HEADER_OCTETS of struct virtio_net_hdr.   ethernet: then comes an Ethernet header
    (destination first): what is written goes to `mac`, from any other address.   Then the IP packet.
    segmentation: which super-packets come and may be written: "tcp", "udp" (USO).
    """

    name: str
    mtu: int
    queues: tuple[int, ...]
    vnet_header: bool = False
    ethernet: bool = False
    mac: bytes = b""
    segmentation: frozenset[str] = frozenset()
    _kept: list[socket.socket] = field(default_factory=list, repr=False)

    @property
    def fd(self) -> int:
        """The first queue."""
        return self.queues[0]

    @property
    def kind(self) -> str:
        """What it is, for people: tun or veth."""
        return "veth" if self.ethernet else "tun"

    def read(self) -> bytes | None:
        """Return the next IP packet that this host wants protected, b"" for a frame that is no IP, None if none waits.

        Only without vnet_header.   Raises OSError if the device is gone.
        """
        try:
            octets = os.read(self.fd, _MAX_PACKET)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.ENETDOWN, errno.EIO):  # set down by somebody: nothing to read until it is up
                return None
            raise
        if not self.ethernet:
            return octets
        known = octets[12:14] in (b"\x08\x00", b"\x86\xdd")
        return octets[ETHERNET_OCTETS:] if known else b""

    def write(self, packet: bytes) -> str | None:
        """Give this host an IP packet.   Returns None, or the name of the count that tells why it was lost.

        Only without vnet_header.
        """
        if self.ethernet:
            kind = _ETH_P_IP if packet[0] >> 4 == 4 else _ETH_P_IPV6
            packet = self.mac + _FAR_MAC + struct.pack(">H", kind) + packet
        try:
            os.write(self.fd, packet)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                return "device_full"
            return "device_down" if error.errno in (errno.EIO, errno.ENETDOWN, errno.ENXIO) else "device_refused"
        return None

    def close(self) -> None:
        """Let go of it; the interface vanishes.   Does nothing the second time."""
        kept, self._kept = self._kept, []
        if kept:
            _delete_own(self.name)
        for each in kept:
            each.close()
        queues, self.queues = self.queues, ()
        if not self.ethernet:
            for queue in queues:
                os.close(queue)


def open_device(name: str, mtu: int, *, kind: DeviceKind = "auto", offloads: bool = False, queues: int = 1) -> Device:
    """Make the interface, down and without addresses.

    name: 1..15 characters.   mtu: octets of an inner packet.   kind: auto takes a TUN device if it can be had.
    offloads: packets with vnet_header, super-packets among them. queues: descriptors, of a TUN device alone.
    Raises ConfigError if the name is taken, PermissionNeeded, UnsupportedError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as opened:
        netlink = Netlink(opened)
        _free(netlink, name)
        device = None
        if kind != "veth":
            device = _open_tun(name, mtu, offloads, queues, must=kind == "tun")
        if device is None:
            device = _open_veth(netlink, name, mtu, offloads)
        try:
            netlink.set_mtu(name, mtu)
            netlink.set_alias(name, ALIAS)
            if mtu >= IPV6_MIN_MTU:  # below, Linux keeps no IPv6 on an interface, and nothing to set of it
                netlink.without_link_local(name)
            with contextlib.suppress(NetlinkError):
                netlink.set_queue_length(name, QUEUE_PACKETS)
        except BaseException:
            device.close()
            raise
    return device


def _free(netlink: Netlink, name: str) -> None:
    """Wait until the interface of a process that was killed has gone; take away one that will not go."""
    begun = time.monotonic()
    while (whose := netlink.whose(name)) is not None:
        passed = time.monotonic() - begun
        # One that was killed early had no time to leave its note, but a veth has had its address from the first.
        if whose[0] != ALIAS and whose[1] != _NEAR_MAC and passed > _UNNAMED_S:
            raise ConfigError(f"there is an interface {name} already", key="interface.name", expected="another name")
        if passed > _GONE_S:
            with contextlib.suppress(NetlinkError):  # it went now
                netlink.delete(name)
            return
        time.sleep(0.005)


def _delete_own(name: str) -> None:
    """Delete a veth pair now; the kernel would take its time to take the far end's namespace apart."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as opened, contextlib.suppress(NetlinkError):
        netlink = Netlink(opened)
        whose = netlink.whose(name)
        if whose is not None and whose[1] == _NEAR_MAC:
            netlink.delete(name)


def _open_tun(name: str, mtu: int, offloads: bool, queues: int, *, must: bool) -> Device | None:
    flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if offloads else 0) | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    descriptors: list[int] = []
    try:
        for _ in range(queues):
            descriptors.append(os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            fcntl.ioctl(descriptors[-1], _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        opened = len(descriptors)
        for each in descriptors:
            os.close(each)
        if error.errno == errno.EBUSY:
            raise ConfigError(
                f"there is an interface {name} already", key="interface.name", expected="another name"
            ) from None
        if not must and not opened:
            return None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise PermissionNeeded("CAP_NET_ADMIN", f"making the interface {name}") from None
        raise UnsupportedError("a TUN device", f"{_TUN} says {error.strerror!r}: modprobe tun, or kind veth") from None
    segmentation = _tun_offloads(descriptors) if offloads else frozenset()
    return Device(name, mtu, tuple(descriptors), vnet_header=offloads, segmentation=segmentation)


def _tun_offloads(descriptors: list[int]) -> frozenset[str]:
    """Switch on as much segmentation offload as this kernel has; USO came with 6.2."""
    tcp = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN
    tried = ((tcp | _TUN_F_USO4 | _TUN_F_USO6, {"tcp", "udp"}), (tcp, {"tcp"}), (_TUN_F_CSUM, set[str]()))
    for flags, names in tried:
        try:
            for each in descriptors:
                fcntl.ioctl(each, _TUNSETOFFLOAD, flags)
        except OSError:
            continue
        return frozenset(names)
    return frozenset()


def _open_veth(netlink: Netlink, name: str, mtu: int, offloads: bool) -> Device:
    packets, namespace = _elsewhere(name)
    try:
        try:
            netlink.add_veth(name, _NEAR_MAC, "far", _FAR_MAC, namespace, 65535)
        except NetlinkError as error:
            if error.number == errno.EPERM:
                raise PermissionNeeded("CAP_NET_ADMIN", f"making the interface {name}") from None
            if error.number == errno.EOPNOTSUPP:
                raise UnsupportedError("a veth pair", "this kernel has neither TUN nor veth") from None
            raise
        far = Netlink(packets[1])
        far.without_link_local("far")
        far.set_up("far")
        # Frames to an interface without neighbours bear its own address, which is not the far end's.
        netlink.without_neighbours(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            set_offloads(control, name, segmentation=offloads, checksum=offloads)
        frames = packets[0]
        frames.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        frames.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        if offloads:
            frames.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        else:
            with contextlib.suppress(OSError):  # one copy less on the way; a comfort
                frames.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        frames.setblocking(False)
        frames.bind(("far", _ETH_P_ALL))
        udp = {"udp"} if offloads and _takes_udp_segments(frames) else set[str]()
    except BaseException:
        for each in packets:
            each.close()
        raise
    finally:
        os.close(namespace)
    segmentation = frozenset({"tcp"} | udp) if offloads else frozenset[str]()
    return Device(
        name, mtu, (frames.fileno(),), vnet_header=offloads, ethernet=True, mac=_NEAR_MAC, segmentation=segmentation,
        _kept=packets,
    )  # fmt: skip


def _takes_udp_segments(frames: socket.socket) -> bool:
    """Tell whether UDP super-packets may be written, as of Linux 6.2: by one that is lost, for the near end is down."""
    header = struct.pack("=BBHHHH", _F_NEEDS_CSUM, _GSO_UDP_L4, ETHERNET_OCTETS + 28, 1, ETHERNET_OCTETS + 20, 6)
    addresses = bytes((127, 0, 0, 1)) * 2
    packet = struct.pack(">BBHHHBBH", 0x45, 0, 30, 0, 0, 64, 17, 0) + addresses + struct.pack(">HHHH", 9, 9, 10, 0)
    try:
        frames.send(header + _NEAR_MAC + _FAR_MAC + struct.pack(">H", _ETH_P_IP) + packet + bytes(2))
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def _elsewhere(name: str) -> tuple[list[socket.socket], int]:
    """Return a packet and a netlink socket in a new network namespace, and its descriptor.

    A thread goes there and ends; the namespace lives as long as the sockets do.
    """
    found: list[socket.socket] = []
    namespace: list[int] = []
    wrong: list[OSError] = []

    def go() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            namespace.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            found.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            found.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
        except OSError as error:
            wrong.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if wrong:
        for each in found:
            each.close()
        for descriptor in namespace:
            os.close(descriptor)
        what = f"making the interface {name} without {_TUN}"
        if wrong[0].errno == errno.EPERM:
            raise PermissionNeeded("CAP_SYS_ADMIN", what)
        raise UnsupportedError(what, f"{wrong[0].strerror}; make {_TUN} accessible")
    return found, namespace[0]


# Locally administered. A frame's own sender address tells nobody anything in here.
_NEAR_MAC = bytes.fromhex("0257e5be0001")
_FAR_MAC = bytes.fromhex("0257e5be0002")
