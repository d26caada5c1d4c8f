"""The native engine's extension module.   Only `engine/native.py`, `tunnel/native_loop.py` and the benchmark use it."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .engine.batch import Results
from .engine.events import Event
from .protocols.psp import Profile as PythonPspProfile
from .psp.gateway import GatewayProfile
from .sa import Policy
from .sa import Profile as PythonProfile
from .verdict import Verdict

def version() -> str:
    """Return the version of the native engine, the same as that of the Python package it was built with."""

def providers() -> list[str]:
    """Return the names of the AEAD providers of this build, the default first."""

def cpu_flags() -> list[str]:
    """Return the features of this processor that decide which code of a provider runs."""

class Array:
    """Memory of a result, for numpy.frombuffer."""

    def __len__(self) -> int:
        """Return the octets."""

class Profile:
    """A profile on the native side: what all SAs installed with it share."""

    def __new__(cls, profile: PythonProfile) -> Self: ...
    @property
    def address(self) -> int:
        """A number that no other profile has while this one lives."""

    def is_used(self) -> bool:
        """Whether anything but this handle holds it: an SA, as a rule."""

class Engine:
    """SAs, policies, and packets through them, for `engine/native.py` to build on.

    Batches release the GIL. One thread may protect while another opens.
    """

    def __new__(
        cls,
        iv_key: bytes,
        udp_ports: Sequence[int],
        audit: bool,
        events: int,
        resync_failures: int,
        resync_tries: int,
        shards: int,
        provider: str | None = None,
    ) -> Self: ...
    def _install(
        self,
        profile: Profile,
        outbound: bool,
        spi: int,
        key: bytes,
        salt: bytes,
        auth_key: bytes,
        sequence: int,
        multicast: Sequence[IPv4Address | IPv6Address],
        iv: bytes | None,
        now: int,
    ) -> int: ...
    def _install_many(
        self, profile: Profile, outbound: bool, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int
    ) -> Array: ...
    def _remove(self, sa: int) -> bool: ...
    def _state(self, sa: int) -> tuple[int, int, int, int, int, int] | None: ...
    def _sub_sa_state(self, sa: int, id: int) -> tuple[tuple[int, int, int] | None] | None: ...
    def _profile_address(self, sa: int) -> int | None: ...
    def _find(self, spis: NDArray[np.uint32]) -> Array: ...
    def _infer(self, sa: int, low: int) -> tuple[int | None] | None: ...
    def _inner_mtu(self, sa: int, now: int) -> int | None: ...
    def _set_mtu(self, sa: int, mtu: int, now: int) -> bool: ...
    def _reserve(self, sa: int, last: int) -> bool: ...
    def _close_window(self, sa: int) -> bool: ...
    def _set_native_profile(self, sa: int, profile: Profile) -> bool: ...
    def encapsulate(self, sa: int, packet: bytes, now: int, *, tfc: bytes = b"", mark: int = 0) -> Verdict: ...
    def dummy(self, sa: int, payload: bytes, now: int) -> Verdict: ...
    def decapsulate(self, packet: bytes, now: int) -> Verdict: ...
    def _encapsulate_many(
        self,
        sas: int | NDArray[np.uint64],
        marks: int | NDArray[np.uint32],
        data: NDArray[np.uint8],
        offsets: NDArray[np.uint64],
        now: int,
    ) -> Results: ...
    def _decapsulate_many(self, data: NDArray[np.uint8], offsets: NDArray[np.uint64], now: int) -> Results: ...
    def _set_policies(self, outbound: Sequence[Policy], inbound: Sequence[Policy]) -> None: ...
    def _lookup_policy(self, packet: bytes, outbound: bool) -> tuple[int | None, int | None] | None: ...
    def deadline(self) -> int | None: ...
    def handle_timeout(self, now: int) -> None: ...
    def next_event(self) -> Event | None: ...
    lost_events: int
    def _tell(self, event: Event) -> None: ...
    def _drops(self) -> list[tuple[int, int]]: ...
    def _count_code(self, code: int) -> None: ...
    def _recent_outbound(self, spi: int, remote: bytes) -> list[tuple[int, int]]: ...

class Dataplane:
    """Worker threads between a device and links, for `tunnel/native_loop.py` to build on. They never hold the GIL.

    devices: (descriptor, virtio_net_hdr or not, destination and source address of Ethernet frames if there is such a
    header, whether it takes UDP super-packets); one outward worker each.
    links: (udp4, udp6, raw4 or raw6, descriptor, local address, local port, whether other sockets share that, for which
    shard of the engine it receives, None if nothing comes by it); one inward worker for each that receives.
    offloads: try UDP_SEGMENT and UDP_GRO.   Descriptors are copied.
    """

    def __new__(
        cls,
        engine: Engine | PspGateway,
        devices: Sequence[tuple[int, bool, bytes | None, bool]],
        links: Sequence[tuple[str, int, IPv4Address | IPv6Address, int, bool, int | None]],
        offloads: bool,
    ) -> Self: ...
    def start(self) -> None:
        """Start the threads.   Raises OSError."""

    def drain(self) -> float:
        """Have what waits at the links opened and written, by a thread for each; return the seconds it took.

        For measurement, in place of `start`.
        """

    def stop(self, drain_seconds: float) -> None:
        """End outward workers, the inward ones after so many seconds more.   Raises the OSError that one ended with."""

    def counts(self) -> list[tuple[str, int]]:
        """Return what has been counted; a name may come outward and inward."""

    def has_died(self) -> bool:
        """Tell whether a worker has ended though nobody told it to; `stop` raises why."""

    def offloads(self) -> list[tuple[bool, bool]]:
        """Return of each link whether several datagrams go as one message, and whether they come so."""

    slow_fd: int
    """Readable while packets wait for `slow`."""

    def slow(self) -> list[tuple[bool, bytes]]:
        """Take the packets of the rare cases: (outbound, packet)."""

    def send(self, packet: bytes) -> str | None:
        """Send what an engine has made.   Returns None, or the name of the count that tells why it was lost."""

    def write(self, packet: bytes) -> str | None:
        """Write a plain packet to the device.   Returns None, or the name of the count that tells why it was lost."""

    def open_tap(self, snap: int, limit: int) -> None:
        """Begin to copy what passes: so many octets of each packet, so many of all before some are lost."""

    def close_tap(self) -> None:
        """End that."""

    def seen(self) -> tuple[list[tuple[int, bool, bool, int, bytes, int]], int]:
        """Take the copies: (ns, outbound, inner, octets, first octets, drop's code or 0); and how many had no room."""

def associated(suite: str, spi: int, sequence: int, esn: bool, iv: bytes) -> bytes:
    """Return what ESP authenticates in front of the ciphertext."""

def seal(suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, plaintext: bytes) -> bytes:
    """Return ciphertext and ICV.   Raises ValueError on a length that does not fit."""

def open(
    suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, sealed: bytes
) -> bytes | None:
    """Return the plaintext, None if the ICV does not fit.   Raises ValueError on a length that does not fit."""

def cbc(key: bytes, iv: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
    """Return data, whole blocks, through AES-CBC without integrity."""

def sub_sa_key(kdf: str, root_key: bytes, session_id: int, octets: int) -> bytes:
    """Return key, then salt of an EESP Sub SA, so many octets together.   Raises ValueError."""

def stateless_key(master: bytes, spi: int, device: int, epoch: int) -> bytes:
    """Return key, then salt of a device's epoch in an EESP-SL-1 group.   master: 32 octets.   Raises ValueError."""

def shard_of(packet: bytes, shards: int) -> int:
    """Return the shard in which an engine of so many opens a packet, from its IP header on."""

def hmac(suite: str, auth_key: bytes, data: bytes) -> bytes:
    """Return the MAC of a suite with a separate one, cut to its ICV."""

def psp_derive_key(device_key: bytes, spi: int, version: int) -> bytes:
    """Return the key of one SPI under a device key."""

def psp_derive_keys(
    device_key: bytes, spis: NDArray[np.uint32], version: int, out: NDArray[np.uint8], threads: int
) -> None:
    """Write the keys of many SPIs under a device key into an array.   out: one dimension, all keys long."""

def psp_input_blocks(spi: int, version: int) -> list[bytes]:
    """Return what the derivation's PRF takes, a block for each 16 octets of key."""

class PspProfile:
    """A PSP profile made ready on the native side."""

    def __new__(cls, profile: PythonPspProfile) -> Self: ...

class PspEngine:
    """PSP's device keys and packets, for `psp/native.py` to build on.   Batches release the GIL."""

    def __new__(
        cls, port: int, versions: Sequence[int], verify_checksum: bool, hash_key: bytes, provider: str | None = None
    ) -> Self: ...
    def set_device_key(self, slot: int, key: bytes | None) -> None: ...
    def derive_key(self, spi: int, version: int) -> bytes | None: ...
    def derive_keys(self, spis: NDArray[np.uint32], version: int, out: NDArray[np.uint8]) -> int | None: ...
    def seal(self, key: bytes, packet: bytes) -> bytes | None: ...
    def open(self, key: bytes, sealed: bytes) -> tuple[bytes | None] | None: ...
    def encapsulate(
        self, profile: PspProfile, packet: bytes, spi: int, key: bytes, iv: int
    ) -> tuple[int, int, bytes]: ...
    def decapsulate(self, packet: bytes) -> tuple[int, bytes, int, int, int, bytes, bytes, int]: ...
    def encapsulate_many(
        self,
        profile: PspProfile,
        data: NDArray[np.uint8],
        offsets: NDArray[np.uint64],
        spis: NDArray[np.uint32],
        keys: NDArray[np.uint8],
        ivs: NDArray[np.uint64],
    ) -> tuple[Array, Array, Array]: ...
    def decapsulate_many(
        self, data: NDArray[np.uint8], offsets: NDArray[np.uint64]
    ) -> tuple[Array, Array, Array, Array, Array, Array, Array]: ...
    def drops(self) -> list[tuple[int, int, int]]: ...
    def totals(self) -> tuple[int, int, int, int]: ...
    def count(self, code: int, packets: int) -> None: ...

class PspGateway:
    """PSP's associations and policy, for `psp/native_gateway.py` to build on.   Calls from several threads are safe."""

    def __new__(
        cls,
        port: int,
        versions: Sequence[int],
        verify_checksum: bool,
        hash_key: bytes,
        events: int,
        provider: str | None = None,
    ) -> Self: ...
    def set_device_key(self, slot: int, key: bytes | None) -> None: ...
    def install(
        self, profile: GatewayProfile, outbound: bool, spi: int, key: bytes, iv: int, now: int
    ) -> tuple[int | None, str]: ...
    def remove(self, sa: int) -> bool: ...
    def state(self, sa: int) -> tuple[int, int, int, int, int, int] | None: ...
    def mtu(self, sa: int, now: int) -> int | None: ...
    def set_mtu(self, sa: int, mtu: int, now: int) -> bool: ...
    def reserve(self, sa: int, last: int) -> bool: ...
    def close_window(self, sa: int) -> bool: ...
    def set_profile(self, sa: int, profile: GatewayProfile) -> bool: ...
    def encapsulate(self, sa: int, packet: bytes, bare: bool, now: int) -> tuple[int, int, bytes, int]: ...
    def decapsulate(self, packet: bytes) -> tuple[int, bytes, int, int]: ...
    def set_policies(self, outbound: Sequence[Policy]) -> None: ...
    def look_up_policy(self, packet: bytes) -> tuple[int | None, int | None] | None: ...
    def handle_timeout(self, now: int) -> None: ...
    def next_event(self) -> Event | None: ...
    @property
    def lost_events(self) -> int: ...
    def tell(self, event: Event) -> None: ...
    def recent_outbound(self, spi: int, remote: IPv4Address | IPv6Address) -> list[tuple[int, int]]: ...
    def drops(self) -> list[tuple[int, int, int]]: ...
    def totals(self) -> tuple[int, int, int, int]: ...
    def count(self, code: int) -> None: ...

class PspTable:
    """PSP's transmit associations, for `psp/table.py` to build on.   Batches release the GIL."""

    def __new__(
        cls,
        engine: PspEngine,
        profiles: Sequence[PythonPspProfile],
        soft: tuple[int | None, int | None, int | None],
        hard: tuple[int | None, int | None, int | None],
    ) -> Self: ...
    def __len__(self) -> int: ...
    def install(self, profile: int, spi: int, key: bytes, now: int) -> int | None: ...
    def install_many(self, profile: int, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int) -> Array: ...
    def replace(self, id: int, spi: int, key: bytes, now: int) -> bool: ...
    def remove(self, id: int) -> bool: ...
    def state(self, id: int) -> tuple[int, int, int, int, int] | None: ...
    def next_event(self) -> tuple[int, bool, int] | None: ...
    lost_events: int
    octets: int
    highest_iv: int
    def encapsulate_many(
        self,
        ids: int | NDArray[np.uint64],
        data: NDArray[np.uint8],
        offsets: NDArray[np.uint64],
        ivs: int | tuple[int, int],
        now: int,
    ) -> tuple[Array, Array, Array]: ...

class PspGuard:
    """Replay rules by SPI, for `psp/native.py`."""

    def __new__(cls, most: int) -> Self: ...
    def __len__(self) -> int: ...
    def watch_time(self, spi: int, margin_ns: int, newest: int) -> bool: ...
    def watch_exact(self, spi: int, window: int, newest: int) -> bool: ...
    def forget(self, spi: int) -> None: ...
    def forget_slot(self, slot: int) -> None: ...
    def state(self, spi: int) -> tuple[int, int, int, int] | None: ...
    def accept(self, spi: int, iv: int) -> bool: ...
    def accept_many(self, spis: NDArray[np.uint32], ivs: NDArray[np.uint64], codes: NDArray[np.uint8]) -> Array: ...

class ProviderBench:
    """A provider alone: a ring of distinct buffers, keys ready, 8 octets of associated data."""

    def __new__(cls, provider: str, suite: str, key_octets: int, keys: int, slots: int, body_octets: int) -> Self: ...
    def nanoseconds(self, direction: str, packets: int) -> float:
        """Return nanoseconds a packet.   direction: seal or open."""

class EspBench:
    """All of ESP's work, or another protocol's: SAs from both ends, a ring of distinct buffers, packets in batches."""

    def __new__(
        cls, provider: str, suite: str, key_octets: int, sas: int, slots: int, inner_octets: int, protocol: str = "esp"
    ) -> Self: ...
    def nanoseconds(self, direction: str, packets: int) -> float:
        """Return nanoseconds a packet.   direction: seal or open."""

def expand_nanoseconds(provider: str, suite: str, key_octets: int, keys: int) -> float:
    """Return nanoseconds to expand one key."""

def bare_block_nanoseconds(blocks: int) -> float:
    """Return nanoseconds a block of AES-256 with nothing around it, as fast as this processor can."""

class FreshBench:
    """A provider that expands a key for each packet: a ring of distinct buffers and keys."""

    def __new__(cls, provider: str, key_octets: int, slots: int, body_octets: int) -> Self: ...
    def nanoseconds(self, direction: str, packets: int) -> float:
        """Return nanoseconds a packet.   direction: seal or open."""

class PspBench:
    """All of PSP's work: a table of associations, a stateless receiver, packets in batches."""

    def __new__(cls, provider: str, version: int, associations: int, slots: int, inner_octets: int) -> Self: ...
    def nanoseconds(self, direction: str, packets: int) -> float:
        """Return nanoseconds a packet.   direction: seal or open."""

    def table_octets(self) -> int:
        """Return the octets of the table's rows."""

class LookupBench:
    """A table of SAs beside a bare probe of the same rows."""

    def __new__(cls, sas: int, seed: int) -> Self: ...
    def install_nanoseconds(self) -> float:
        """Return nanoseconds that one of the installs took, done in bulk."""

    def table_nanoseconds(self) -> float:
        """Return nanoseconds a look-up: of the table, in batches, over all SPIs at random."""

    def bare_nanoseconds(self) -> float:
        """Return nanoseconds a look-up: of the bare probe, the fastest of its forms."""

class TableBench:
    """A table of idle SAs, to be weighed."""

    def __new__(cls, sas: int, seed: int) -> Self: ...
    def __len__(self) -> int:
        """Return how many SAs there are."""

    def heap_octets(self) -> int:
        """Return the octets that the table has allocated."""
