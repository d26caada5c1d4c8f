"""Real traffic, made and captured without privilege."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from wesper.errors import UnsupportedError
from wesper.lab.traffic import MARKER, MTU
from wesper.pcap import open_capture
from wesper.protocols.ip import checksum, parse, pseudo_header


def _make(path: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "wesper.lab.traffic", str(path)], capture_output=True, text=True, timeout=60
    )
    if done.returncode == UnsupportedError.exit_code:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_traffic_is_mixed_whole_and_correctly_summed(tmp_path: Path) -> None:
    path = tmp_path / "traffic.pcapng"
    count = _make(path)
    kinds: Counter[tuple[int, int]] = Counter()
    marked = 0
    with open_capture(path) as capture:
        for record in capture:
            datagram = parse(record.data[14:])
            assert datagram is not None
            assert len(datagram.packet) <= MTU
            kinds[datagram.version, datagram.upper] += 1
            marked += MARKER in record.data
            segment = datagram.packet[datagram.upper_at :]
            header = datagram.header
            if datagram.upper in (6, 17):
                assert (
                    checksum(pseudo_header(header.source, header.destination, datagram.upper, len(segment)) + segment)
                    == 0
                )
            else:
                assert checksum(segment) == 0
            if datagram.version == 4:
                assert checksum(datagram.packet[: datagram.payload]) == 0
    assert sum(kinds.values()) == count
    assert {(4, 1), (4, 6), (4, 17), (6, 6), (6, 17)} <= set(kinds)
    assert marked > 20
