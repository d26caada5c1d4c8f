"""Real Linux kernels as user-mode Linux: made, booted, and talked to; peers that wesper's ESP is held against."""

from .control import Call, GuestError, GuestGone, Process
from .guest import CARD, Guest
from .store import Kernel, find, look_up

__all__ = ["CARD", "Call", "Guest", "GuestError", "GuestGone", "Kernel", "Process", "find", "look_up"]
