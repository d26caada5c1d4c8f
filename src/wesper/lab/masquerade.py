"""Source NAT by the kernel's nf_tables, asked over netlink, so that no package is needed.

Constants: include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h, nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct

from .netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, Netlink, attribute, message

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES, _CTNETLINK = 10, 1
_NEWTABLE, _NEWCHAIN, _NEWRULE, _CT_DELETE = 0, 3, 6, 2
_NFPROTO_INET, _POSTROUTING, _PRIORITY_SRCNAT = 1, 4, 100
_META_OIFNAME, _REGISTER_1, _CMP_EQ, _RANDOM_FULLY = 7, 1, 0, 1 << 4
_IFNAMSIZ = 16
_NAME = b"wesper\0"


def masquerade(netlink: Netlink, interface: str, *, random_ports: bool) -> None:
    """Give what leaves by an interface its address, IPv4 and IPv6.   Once a namespace.

    netlink: NETLINK_NETFILTER. random_ports: a new port for each flow, instead of its own if that is free.
    Raises NetlinkError.
    """
    hook = _number(1, _POSTROUTING) + _number(2, _PRIORITY_SRCNAT)
    flags = _number(1, _RANDOM_FULLY) if random_ports else b""
    expressions = (
        _expression(b"meta", _number(1, _REGISTER_1) + _number(2, _META_OIFNAME)),
        _expression(
            b"cmp",
            _number(1, _REGISTER_1)
            + _number(2, _CMP_EQ)
            + _nested(3, attribute(1, interface.encode().ljust(_IFNAMSIZ, b"\0"))),
        ),
        _expression(b"masq", flags),
    )
    steps = (
        (_NEWTABLE, attribute(1, _NAME)),
        (_NEWCHAIN, attribute(1, _NAME) + attribute(3, _NAME) + _nested(4, hook) + attribute(7, b"nat\0")),
        (_NEWRULE, attribute(1, _NAME) + attribute(2, _NAME) + _nested(4, b"".join(expressions))),
    )
    batch = message(_BATCH_BEGIN, 0, 1, _header(0, _NFTABLES))
    for sequence, (kind, body) in enumerate(steps, 2):
        flag = NLM_F_CREATE | (NLM_F_ACK if kind == _NEWRULE else 0)
        batch += message(_NFTABLES << 8 | kind, flag, sequence, _header(_NFPROTO_INET, 0) + body)
    batch += message(_BATCH_END, 0, len(steps) + 2, _header(0, _NFTABLES))
    netlink.send(batch)
    netlink.answer(f"masquerading on {interface}", len(steps) + 1)


def forget_flows(netlink: Netlink) -> None:
    """Forget all flows of the namespace: a NAT that was restarted.   netlink: NETLINK_NETFILTER."""
    netlink.request("forgetting flows", _CTNETLINK << 8 | _CT_DELETE, 0, _header(0, 0))


def _header(family: int, resource: int) -> bytes:
    return struct.pack(">BBH", family, 0, resource)  # struct nfgenmsg


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _nested(kind: int, body: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, body)


def _expression(name: bytes, data: bytes) -> bytes:
    return _nested(1, attribute(1, name + b"\0") + _nested(2, data))
