"""PSP: stateless receive, device keys, batches, connections.   docs/psp.md says how to use it."""

from __future__ import annotations

from ..protocols.psp import Opened, Profile, SourcePort
from . import blocking
from .batch import Received, Sent
from .clock import Clock, open_clock
from .connections import Connection, Listener, StreamListener, connect, connect_stream, listen, listen_stream, peer_of
from .derive import derive_key, derive_keys
from .device import Association, Device, DeviceEvent, DeviceEventKind, SPIsExhausted
from .failures import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionLost,
    NoDaemon,
    PeerRefused,
    PeerUnreachable,
    TooLarge,
)
from .gateway import Gateway, GatewayProfile, GatewaySA
from .guard import Guard, GuardState, Replay, ReplayRule
from .interface import Engine, Options, SampledDrop
from .ivs import ClockIVs, CounterIVs, IVSource
from .marks import FileMarks, Marks, MemoryMarks
from .opening import open_engine, open_gateway
from .samples import Sample, Samples
from .table import Limits, RowState, TableEvent, TableEventKind, TransmitTable

__all__ = [
    "Association",
    "Clock",
    "ClockIVs",
    "Connection",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionLost",
    "CounterIVs",
    "Device",
    "DeviceEvent",
    "DeviceEventKind",
    "Engine",
    "FileMarks",
    "Gateway",
    "GatewayProfile",
    "GatewaySA",
    "Guard",
    "GuardState",
    "IVSource",
    "Limits",
    "Listener",
    "Marks",
    "MemoryMarks",
    "NoDaemon",
    "Opened",
    "Options",
    "PeerRefused",
    "PeerUnreachable",
    "Profile",
    "Received",
    "Replay",
    "ReplayRule",
    "RowState",
    "SPIsExhausted",
    "Sample",
    "SampledDrop",
    "Samples",
    "Sent",
    "SourcePort",
    "StreamListener",
    "TableEvent",
    "TableEventKind",
    "TooLarge",
    "TransmitTable",
    "blocking",
    "connect",
    "connect_stream",
    "derive_key",
    "derive_keys",
    "listen",
    "listen_stream",
    "open_clock",
    "open_engine",
    "open_gateway",
    "peer_of",
]
