"""Protocols, sans-I/O: octets in, octets out; sequence numbers, keys and time are arguments."""

from typing import Final

from . import esp
from .encapsulation import Encapsulation, Opened

PROTOCOLS: Final[dict[str, Encapsulation]] = {protocol.name: protocol for protocol in (esp.PROTOCOL,)}

__all__ = ["PROTOCOLS", "Encapsulation", "Opened"]
