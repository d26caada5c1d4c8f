"""`wesper demo --capture`: real traffic protected, drawn, opened again by both engines, compared and timed."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from ..crypto import SUITES
from ..engine import ENGINES, Packets, native_is_built, open_engine
from ..errors import CaptureError, UnsupportedError, WesperError
from ..keying import StaticSA, load_keys, save_keys
from ..keying.esp_sa import NEW_NAMES
from ..keying.static import Encapsulated
from ..lab.traffic import MARKER
from ..pcap import create_capture, ip_offset, open_capture
from ..pcap.batch import Batches
from ..pcap.decrypt import decrypt
from ..pcap.dissect import Keyring, dissect
from ..pcap.encrypt import encrypt
from ..pcap.tally import Tally
from ..sa import AddressRange, Direction, Selector, UDPEncapsulation
from ..wire.numbers import PROTOCOL_NAMES, TCP
from .packet_view import render

_Around = UDPEncapsulation | Encapsulated
_TSHARK_FLAGS = ("esp.enable_encryption_decode", "esp.enable_authentication_check")


def protect_a_capture(console: Console, output: Path) -> int:
    """Tell the whole story, step by step, and return how many comparisons failed.   output: folder for the files."""
    output.mkdir(parents=True, exist_ok=True)
    plain, keys, protected = output / "plain.pcapng", output / "keys.toml", output / "esp.pcapng"

    _step(console, 1, "Real traffic, captured")
    _make_traffic(plain)
    original = [packet for _, packet in _ip_packets(plain)]
    kinds = Counter((packet[0] >> 4, packet[9] if packet[0] >> 4 == 4 else packet[6]) for packet in original)
    for (version, protocol), count in sorted(kinds.items()):
        console.print(f"  {count:5} packets of {PROTOCOL_NAMES.get(protocol, protocol)} over IPv{version}")
    console.print(f"  {plain}: {len(original)} packets, a marker text is in {_marked(plain)} of them", soft_wrap=True)

    _step(console, 2, "Protected with ESP")
    keys.unlink(missing_ok=True)
    save_keys(_associations(), keys)
    sas = load_keys(keys)
    tally = Tally()
    with Batches(str(plain), _cut_short) as batches, create_capture(protected) as out:
        encrypt(batches, out, sas, tally, engine="reference")
    for sa in sas:
        console.print(f"  {sa.name:24} SPI {sa.spi or 0:#010x}  {sa.suite}")
    console.print(
        f"  {protected}: {tally.done} packets protected, the marker is in {_marked(protected)} of them", soft_wrap=True
    )

    _step(console, 3, "Before and after, field by field")
    _draw(console, plain, protected, Keyring(sas))

    _step(console, 4, "Opened again and compared")
    built = [name for name in ENGINES if name == "reference" or native_is_built()]
    faults = sum(_compare(console, protected, output / f"opened-{name}.pcapng", sas, name, original) for name in built)
    faults += _second_opinion(console, protected, sas, output / "esp_sa", tally)
    if "native" not in built:
        console.print("  native     not built here: install Rust (rustup, or cargo-web rustc-web), then make build")

    _step(console, 5, "Speed on this traffic, one core")
    console.print(_speed(sas[0], original, built))
    console.print(
        f"\nEverything is in {output}: try wesper dissect {protected} --keys {keys} --count 3", soft_wrap=True
    )
    if faults:
        console.print(f"{faults} comparisons failed", style="bold red")
    return faults


def _cut_short(error: CaptureError) -> None:
    raise error


def _step(console: Console, number: int, title: str) -> None:
    console.print()
    console.print(Rule(f"{number}  {title}", align="left", style="bold"))


def _make_traffic(path: Path) -> None:
    # A process of its own: the namespaces are that process's, and this one keeps its own network.
    done = subprocess.run(
        [sys.executable, "-m", "wesper.lab.traffic", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == UnsupportedError.exit_code:
        raise UnsupportedError("real traffic", done.stderr.strip().removeprefix("wesper: "))
    if done.returncode:
        raise WesperError(f"no traffic could be made: {done.stderr.strip().splitlines()[-1]}")


def _associations() -> list[StaticSA]:
    """Return three SAs with fresh keys: IPv4 TCP, other IPv4, and IPv6 in UDP."""
    here, there = (AddressRange.parse(text) for text in ("192.0.2.1", "192.0.2.2"))
    four, six = AddressRange.parse("0.0.0.0/0"), AddressRange.parse("::/0")

    def made(
        name: str,
        spi: int,
        suite: str,
        selector: Selector,
        around: UDPEncapsulation | Encapsulated = Encapsulated.NEVER,
    ) -> StaticSA:
        cipher = SUITES[suite]
        return StaticSA(
            suite, spi, secrets.token_bytes(cipher.key_octets[-1]), secrets.token_bytes(cipher.salt_octets),
            secrets.token_bytes(cipher.auth_key_octets), name=name, direction=Direction.OUT, local=here, remote=there,
            selectors=(selector,), encapsulation=around,
        )  # fmt: skip

    return [
        made("TCP over IPv4", 0x1001, "aes-gcm-16", Selector((four,), (four,), TCP)),
        made("other IPv4", 0x1002, "aes-cbc+hmac-sha2-256-128", Selector((four,), (four,))),
        made("IPv6, in UDP", 0x1003, "chacha20-poly1305", Selector((six,), (six,)), UDPEncapsulation()),
    ]


def _ip_packets(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield link type and packet of every record, from its IP header."""
    with open_capture(path) as capture:
        for record in capture:
            at = ip_offset(record.link_type, record.data)
            if at is not None:
                yield record.link_type, record.data[at:]


def _marked(path: Path) -> int:
    return sum(MARKER in packet for _, packet in _ip_packets(path))


def _draw(console: Console, plain: Path, protected: Path, keys: Keyring) -> None:
    """Show one packet of each SA, before and after."""
    shown: set[bytes] = set()
    pairs = zip(_ip_packets(plain), _ip_packets(protected), strict=True)
    for (_, before), (_, after) in pairs:
        kind = after[9:10] + before[:1]  # protocol outside, version inside
        if kind in shown or len(before) > 120:
            continue
        shown.add(kind)
        console.print(render(dissect(before), title=f"before: {len(before)} octets", data_octets=32))
        console.print(
            render(dissect(after), title=f"after: {len(after)} octets", data_octets=32, diagram=len(shown) == 1)
        )
        console.print(render(dissect(after, keys=keys), title="after, with the keys", data_octets=32))
        console.print()


def _compare(
    console: Console, protected: Path, opened: Path, sas: list[StaticSA], engine: str, original: list[bytes]
) -> int:
    """Open a capture and return how many packets differ from the original."""
    tally = Tally()
    with Batches(str(protected), _cut_short) as batches, create_capture(opened) as out:
        decrypt(batches, out, sas, tally, engine=engine, inner_only=True)
    found = [packet for _, packet in _ip_packets(opened)]
    wrong = abs(len(found) - len(original)) + sum(a != b for a, b in zip(found, original, strict=False))
    console.print(f"  {engine:10} {len(found)} of {len(original)} packets opened, {wrong} differ")
    return wrong


def _second_opinion(console: Console, protected: Path, sas: list[StaticSA], folder: Path, tally: Tally) -> int:
    """Have tshark decrypt the suites that every tshark knows, and return how many packets it could not."""
    tshark = shutil.which("tshark")
    if tshark is None:
        console.print("  tshark     not here (apt-get install tshark): no second opinion")
        return 0
    folder.mkdir(exist_ok=True)
    save_keys(sas, folder / "esp_sa", "esp_sa")
    known = [sa for sa in tally.sas.values() if sa.suite not in NEW_NAMES]
    wanted = sum(sa.packets for sa in known)
    spis = ", ".join(f"{sa.spi:#x}" for sa in known)
    options = [word for flag in _TSHARK_FLAGS for word in ("-o", f"{flag}:TRUE")]
    done = subprocess.run(
        [tshark, "-r", protected, *options, "-Y", f"esp.spi in {{{spis}}} && (tcp || udp || icmp)"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(folder)},
    )
    seen = len(done.stdout.splitlines())
    console.print(f"  tshark     {seen} of {wanted} packets decrypted, of the suites that any version knows")
    return wanted - seen


def _speed(sa: StaticSA, packets: list[bytes], engines: list[str]) -> Table:
    """Return packets and Gbit/s of each engine on these packets, under one SA."""
    table = Table(box=None, pad_edge=False)
    for column in ("engine", "protect", "open"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    octets = sum(map(len, packets))
    for name in engines:
        repeats = 40 if name == "native" else 2
        engine = open_engine(name)
        outbound = engine.install(sa.sender())
        engine.install(sa.receiver(sa.spi or 0, ip_address("192.0.2.1"), ip_address("192.0.2.2"), None, 0))
        batch = Packets.of(packets)
        spent = [0, 0]
        for _ in range(repeats):
            start = time.perf_counter_ns()
            sealed = engine.encapsulate_many(outbound, batch, 0)
            middle = time.perf_counter_ns()
            opened = engine.decapsulate_many(sealed.packets, 0)
            spent[0] += middle - start
            spent[1] += time.perf_counter_ns() - middle
            assert not np.any(opened.codes)
        rates = [(len(packets) * repeats * 1e9 / ns, 8 * octets * repeats / ns) for ns in spent]
        table.add_row(name, *(f"{each / 1e3:,.0f} k packets/s, {bits:.2f} Gbit/s" for each, bits in rates))
    return table
