"""Security associations and policies, after the model of RFC 4301."""

from ..protocols.modes import DF, Inner, Mode, Outer
from ..protocols.udp import UDPEncapsulation
from .model import SA, Direction, Fragmentation, Lifetime, Profile, SAState
from .replay import ReplayWindow, infer_sequence
from .selectors import OPAQUE, Action, AddressRange, Policy, Selector

__all__ = [
    "DF",
    "OPAQUE",
    "SA",
    "Action",
    "AddressRange",
    "Direction",
    "Fragmentation",
    "Inner",
    "Lifetime",
    "Mode",
    "Outer",
    "Policy",
    "Profile",
    "ReplayWindow",
    "SAState",
    "Selector",
    "UDPEncapsulation",
    "infer_sequence",
]
