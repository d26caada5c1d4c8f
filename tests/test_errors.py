"""Exceptions keep their words, fields and exit codes on their way between processes."""

from __future__ import annotations

import pickle

import pytest

from wesper.errors import (
    CaptureError,
    ConfigError,
    ExitCode,
    KeyMaterialError,
    PermissionNeeded,
    UnsupportedError,
    VectorMismatch,
    WesperError,
)
from wesper.host.netlink import NetlinkError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong", path="a.toml", line=3, key="sa.spi", expected="a number"), ExitCode.USAGE),
        (KeyMaterialError("short", key="key"), ExitCode.USAGE),
        (UnsupportedError("TUN", "modprobe tun"), ExitCode.MISSING),
        (PermissionNeeded("CAP_NET_ADMIN", "making an interface"), ExitCode.MISSING),
        (VectorMismatch("case 1", "aa", "bb"), ExitCode.CHECK_FAILED),
        (CaptureError("cut short", path="a.pcap", offset=24), ExitCode.USAGE),
        (NetlinkError("address", 17, "said"), ExitCode.IO_TROUBLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, WesperError) else "",
)
def test_errors_travel(error: WesperError, code: ExitCode) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again), again.exit_code) == (str(error), vars(error), code)
