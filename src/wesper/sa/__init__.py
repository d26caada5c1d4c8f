"""Security associations and policies, after the model of RFC 4301."""

from ..protocols.crypt_offset import CryptOffset, Exposure
from ..protocols.eesp_format import EESPFormat, StatelessGroup, SubSAs
from ..protocols.flow_identifier import FlowKind, FlowPolicy
from ..protocols.modes import DF, Inner, Mode, Outer
from ..protocols.options import Option
from ..protocols.udp import UDPEncapsulation
from ..protocols.wespv2 import WESPv2Format
from .model import SA, Direction, Fragmentation, Lifetime, Profile, SAState, SubSAState
from .replay import ReplayWindow, infer_sequence
from .selectors import OPAQUE, Action, AddressRange, Policy, Selector

__all__ = [
    "Action",
    "AddressRange",
    "CryptOffset",
    "DF",
    "Direction",
    "EESPFormat",
    "Exposure",
    "FlowKind",
    "FlowPolicy",
    "Fragmentation",
    "Inner",
    "Lifetime",
    "Mode",
    "OPAQUE",
    "Option",
    "Outer",
    "Policy",
    "Profile",
    "ReplayWindow",
    "SA",
    "SAState",
    "Selector",
    "StatelessGroup",
    "SubSAState",
    "SubSAs",
    "UDPEncapsulation",
    "WESPv2Format",
    "infer_sequence",
]
