"""PSP: stateless receive, device keys, batches.   docs/psp.md says how to use it."""

from __future__ import annotations

from ..protocols.psp import Opened, Profile, SourcePort
from .batch import Received, Sent
from .clock import Clock, open_clock
from .derive import derive_key, derive_keys
from .device import Association, Device, DeviceEvent, DeviceEventKind, SPIsExhausted
from .interface import Engine, Options, SampledDrop
from .ivs import ClockIVs, CounterIVs, IVSource
from .marks import FileMarks, Marks, MemoryMarks
from .opening import open_engine
from .table import Limits, RowState, TableEvent, TableEventKind, TransmitTable

__all__ = [
    "Association",
    "Clock",
    "ClockIVs",
    "CounterIVs",
    "Device",
    "DeviceEvent",
    "DeviceEventKind",
    "Engine",
    "FileMarks",
    "IVSource",
    "Limits",
    "Marks",
    "MemoryMarks",
    "Opened",
    "Options",
    "Profile",
    "Received",
    "RowState",
    "SPIsExhausted",
    "SampledDrop",
    "Sent",
    "SourcePort",
    "TableEvent",
    "TableEventKind",
    "TransmitTable",
    "derive_key",
    "derive_keys",
    "open_clock",
    "open_engine",
]
