"""The userspace home of Linux's packet-encryption family: reference implementations that run.

>>> from ipaddress import ip_address
>>> import wesper
>>> there, here = ip_address("192.0.2.2"), ip_address("192.0.2.1")
>>> profile = wesper.Profile("aes-gcm-16", outer=wesper.Outer(local=here, remote=there))
>>> engine = wesper.open_engine("reference")
>>> sa = engine.install(wesper.SA(profile, wesper.Direction.OUT, spi=0x1000, key=bytes(range(32)), salt=b"salt"))
>>> inner = bytes.fromhex("4500001c0000400040012ad6c0000201c0000202 0800f7ff00000000")
>>> verdict = engine.encapsulate(sa, inner, now=0)
>>> len(verdict.packet), verdict.sequence
(84, 1)
"""

from .engine import Engine, Event, EventKind, Options, Packets, Results, open_engine
from .errors import (
    CaptureError,
    ConfigError,
    KeyMaterialError,
    PermissionNeeded,
    UnsupportedError,
    VectorMismatch,
    WesperError,
)
from .sa import (
    DF,
    OPAQUE,
    SA,
    Action,
    AddressRange,
    CryptOffset,
    Direction,
    EESPFormat,
    Exposure,
    FlowKind,
    FlowPolicy,
    Fragmentation,
    Inner,
    Lifetime,
    Mode,
    Option,
    Outer,
    Policy,
    Profile,
    ReplayWindow,
    SAState,
    Selector,
    StatelessGroup,
    SubSAs,
    SubSAState,
    UDPEncapsulation,
    WESPv2Format,
)
from .verdict import Bypassed, Delivered, Dropped, DropReason, Verdict

__version__ = "0.1.0"

__all__ = [
    "Action",
    "AddressRange",
    "Bypassed",
    "CaptureError",
    "ConfigError",
    "CryptOffset",
    "DF",
    "Delivered",
    "Direction",
    "DropReason",
    "Dropped",
    "EESPFormat",
    "Engine",
    "Event",
    "EventKind",
    "Exposure",
    "FlowKind",
    "FlowPolicy",
    "Fragmentation",
    "Inner",
    "KeyMaterialError",
    "Lifetime",
    "Mode",
    "OPAQUE",
    "Option",
    "Options",
    "Outer",
    "Packets",
    "PermissionNeeded",
    "Policy",
    "Profile",
    "ReplayWindow",
    "Results",
    "SA",
    "SAState",
    "Selector",
    "StatelessGroup",
    "SubSAState",
    "SubSAs",
    "UDPEncapsulation",
    "UnsupportedError",
    "VectorMismatch",
    "Verdict",
    "WESPv2Format",
    "WesperError",
    "open_engine",
]
