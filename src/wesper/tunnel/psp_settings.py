"""PSP in the tunnel file: what a tunnel's packets look like, and the keys of this end's device.

With static keys nobody agrees on associations while they run: each end has its device keys in a file of its own, and a
pair names the SPI that was given to the peer, whose key follows from them, and SPI and key that the peer has given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..crypto.psp import DEVICE_KEY, VERSIONS, DeviceKey
from ..crypto.psp import version as psp_version
from ..errors import ConfigError, KeyMaterialError
from ..protocols.modes import Mode, Outer
from ..protocols.psp import INDEX_MASK, Profile, SourcePort
from ..protocols.udp import UDPEncapsulation
from ..psp.gateway import GatewayProfile
from ..psp.guard import Replay, ReplayRule
from ..sa import Lifetime, Selector
from ..sa.replay import DEFAULT_WINDOW, MAX_WINDOW
from ..wire.psp import COOKIE, VERSION_NAMES
from .key_row import named_row
from .tables import EXPECTED, FileTable, PSPTable, TunnelTable

PORTS: Final = 16  # source ports, at least: PSP UDP Header
MARGIN_MS: Final = 1000  # above what networks reorder
MOST_MARGIN_MS: Final = 86_400_000  # a day
_ANY_PORTS: Final = tuple(range(49152, 49152 + PORTS))  # as long as no socket is open
_RANGE: Final = re.compile(r"(\d{1,5})-(\d{1,5})")
ESP_ONLY: Final = ("suite", "esn", "window", "pad_to", "inner", "roaming", "keepalive")
"""Keys of a tunnel that say nothing about PSP."""

DeviceKeys = tuple[bytes | None, bytes | None]
Wrong = Callable[..., ConfigError]  # (key, what, expected, kind of error)


@dataclass(frozen=True, slots=True)
class PSPSettings:
    """How the packets of a tunnel look.

    cookie: 8 octets, in every packet both ways; None: none.   source_ports: UDP's, that flows are spread over; empty:
    those that the kernel gives.   replay: how the IVs of what comes are looked at.
    """

    version: int = 0
    crypt_offset_words: int = 0
    cookie: bytes | None = None
    source_ports: tuple[int, ...] = ()
    replay: ReplayRule = field(default_factory=ReplayRule)

    def describe_replay(self) -> dict[str, Any]:
        """Return the replay rule by the names of the file."""
        match self.replay.kind:
            case Replay.EXACT:
                return {"rule": "bitmap", "window": self.replay.window}
            case Replay.TIME_WINDOW:
                return {"rule": "time", "margin_ms": self.replay.margin_ns // 1_000_000}
            case _:
                return {"rule": "none"}

    @property
    def suite(self) -> str:
        """The version's name."""
        return VERSION_NAMES[self.version]

    def profile(
        self,
        mode: Mode,
        outer: Outer,
        port: int,
        ports: tuple[int, ...],
        mtu: int,
        selectors: tuple[Selector, ...] = (),
        soft: Lifetime | None = None,
        hard: Lifetime | None = None,
    ) -> GatewayProfile:
        """Return what the associations of a tunnel share.   port: the peer's.   ports: of open sockets.

        Raises ConfigError.
        """
        look = Profile(
            mode,
            self.version,
            self.crypt_offset_words,
            self.cookie,
            outer=outer if mode is Mode.TUNNEL else None,
            port=port,
            source_port=SourcePort.TABLE,
            ports=ports or self.source_ports or _ANY_PORTS,
            mtu=min(mtu, 65535),
        )
        limits = soft or Lifetime(), hard or Lifetime()
        return GatewayProfile(look, outer.local, outer.remote, selectors, *limits, self.replay)


def psp_of(table: TunnelTable, has: Callable[[str], bool], wrong: Wrong) -> PSPSettings | None:
    """Return how a tunnel's packets look; None if it runs ESP.   has: whether the file gives a key.

    Raises ConfigError, also for what is ESP's alone.
    """
    if table.protocol != "psp":
        if table.psp is not None:
            raise wrong("psp", "settings of PSP", 'protocol = "psp"')
        return None
    for key in ESP_ONLY:
        if has(key):
            instead = "; PSP's is psp.window" if key == "window" else ""
            raise wrong(key, f"{key} with PSP", f"none: that is ESP's{instead}")
    if table.encapsulation == "none":
        raise wrong("encapsulation", "PSP without UDP", "udp, or a table of local_port and peer_port")
    if table.mode == "beet":
        raise wrong("mode", "BEET mode with PSP", "tunnel or transport")
    if table.peer == "any":
        raise wrong("peer", "an open peer of PSP", "an address: packets may be replayed from elsewhere")
    given = table.psp = table.psp or PSPTable()
    if given.version not in VERSIONS:
        raise wrong("psp.version", f"version {given.version}", "0..3")
    cookie = None
    if given.cookie:
        try:
            cookie = bytes.fromhex(given.cookie.removeprefix("0x"))
        except ValueError:
            cookie = b""
        if len(cookie) != COOKIE:
            raise wrong("psp.cookie", f"{given.cookie!r}", f"{COOKIE} octets in hexadecimal")
    try:
        Profile(version=given.version, crypt_offset_words=given.crypt_offset, cookie=cookie)
    except ConfigError as error:
        raise wrong("psp.crypt_offset", error.what, error.expected) from None
    ports = _ports(given.source_ports, wrong)
    return PSPSettings(given.version, given.crypt_offset, cookie, ports, _replay(given, wrong))


def device_keys_of(table: FileTable, folder: Path, wrong: Wrong) -> DeviceKeys | None:
    """Return the keys of this end's PSP device by slot; None if there is no PSP tunnel.   Raises ConfigError."""
    named = table.psp.device_keys
    if any(each.protocol == "psp" for each in table.tunnel):
        if not named:
            raise wrong("psp.device_keys", "missing", EXPECTED["device_keys"])
        return _device_keys(folder, named, wrong)
    if named:
        raise wrong("psp.device_keys", "device keys without a PSP tunnel", "none")
    return None


def check_one_device(
    psp: PSPSettings | None,
    around: UDPEncapsulation | None,
    first_psp: PSPSettings | None,
    first_around: UDPEncapsulation | None,
    wrong: Wrong,
) -> None:
    """Refuse a tunnel beside the first of its file: one file is one engine, and a PSP device has one port.

    Raises ConfigError.
    """
    if (psp is None) is not (first_psp is None):
        what = "PSP beside a tunnel without" if psp is not None else "no PSP beside a tunnel of PSP"
        right = "two files, each its interface: one for PSP, one for all others; both may be up on a host"
        raise wrong("protocol", f"{what}, in one file", right)
    if psp is None or around is None or first_around is None:
        return
    port = around.local_port
    if port != first_around.local_port:
        raise wrong("encapsulation.local_port", f"port {port}", f"{first_around.local_port}: a device has one")
    if port in psp.source_ports:
        raise wrong("psp.source_ports", f"port {port}", "others than local_port")


def derived(keys: DeviceKeys, spi: int, version: int, key: str, wrong: Wrong) -> bytes:
    """Return the key of an SPI that was given to the peer.   key: where the SPI stands.   Raises ConfigError."""
    if not 0 < spi < 1 << 32 or not spi & INDEX_MASK:
        raise wrong(key, f"SPI {spi:#x}", "1..0xffffffff, and not 0x80000000")
    device_key = keys[spi >> 31]
    if device_key is None:
        raise wrong(key, f"SPI {spi:#x} is of device key 1, which is not there", "one below 0x80000000")
    return DeviceKey(device_key).derive(spi, psp_version(version))


def _device_keys(folder: Path, name: str, wrong: Wrong) -> DeviceKeys:
    key = "psp.device_keys"
    row = named_row(folder, name, key, EXPECTED["device_keys"], wrong)
    if len(row) not in (DEVICE_KEY, 2 * DEVICE_KEY) or row[:DEVICE_KEY] == row[DEVICE_KEY:]:
        expected = f"{DEVICE_KEY} or {2 * DEVICE_KEY}: device key 0, or two different ones in a row"
        raise wrong(key, f"{len(row)} octets in {name}", expected, KeyMaterialError)
    return row[:DEVICE_KEY], row[DEVICE_KEY:] or None


def _replay(given: PSPTable, wrong: Wrong) -> ReplayRule:
    """Return a tunnel's replay rule, and put its measure into the table, for who shows every default."""
    for key, owner in (("window", "bitmap"), ("margin_ms", "time")):
        if getattr(given, key) is not None and given.replay != owner:
            raise wrong(f"psp.{key}", f'{key} with replay = "{given.replay}"', f'replay = "{owner}", or no {key}')
    match given.replay:
        case "bitmap":
            given.window = window = DEFAULT_WINDOW if given.window is None else given.window
            if not 32 <= window <= MAX_WINDOW or window % 32:
                raise wrong("psp.window", f"window {window}", f"a multiple of 32, 32..{MAX_WINDOW}")
            return ReplayRule(Replay.EXACT, window=window)
        case "time":
            given.margin_ms = margin = MARGIN_MS if given.margin_ms is None else given.margin_ms
            if not 0 < margin <= MOST_MARGIN_MS:
                raise wrong("psp.margin_ms", f"margin_ms {margin}", f"1..{MOST_MARGIN_MS}")
            return ReplayRule(Replay.TIME_WINDOW, margin_ns=margin * 1_000_000)
        case _:
            return ReplayRule()


def _ports(given: list[int] | str, wrong: Wrong) -> tuple[int, ...]:
    if isinstance(given, str):
        found = _RANGE.fullmatch(given)
        ports = tuple(range(int(found[1]), int(found[2]) + 1)) if found else ()
    else:
        ports = tuple(given)
    good = len(set(ports)) == len(ports) and len(ports) <= 256 and all(1024 <= port <= 65535 for port in ports)
    if not good or (given and len(ports) < PORTS):
        raise wrong("psp.source_ports", f"{given!r}", f'{PORTS} to 256 of 1024..65535: a list, or "first-last"')
    return ports
