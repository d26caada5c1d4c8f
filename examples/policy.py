"""A policy in RFC 4301's words: protect one network, let DNS pass, discard the rest; and an SA that grows old."""

from ipaddress import ip_address

import wesper
from wesper import Action, AddressRange, Lifetime, Policy, Selector

profile = wesper.Profile(
    "chacha20-poly1305",
    outer=wesper.Outer(local=ip_address("192.0.2.1"), remote=ip_address("192.0.2.2")),
    soft=Lifetime(packets=2),
    hard=Lifetime(packets=3, seconds=3600),
)
engine = wesper.open_engine()
sa = engine.install(wesper.SA(profile, wesper.Direction.OUT, spi=0x2000, key=bytes(range(32)), salt=b"salt"))
engine.set_policies(
    [
        Policy(Action.BYPASS, (Selector(protocol=17, remote_ports=(53, 53)),), name="dns"),
        Policy(
            Action.PROTECT, (Selector(remote=(AddressRange.parse("10.0.0.0/8"),)),), sas=((None, sa),), name="office"
        ),
    ]
)


def udp(destination: str, port: int) -> bytes:
    """Return a small UDP packet."""
    head = bytes.fromhex("4500001c0000400040110000c0000201") + ip_address(destination).packed
    return head + (4000).to_bytes(2, "big") + port.to_bytes(2, "big") + bytes.fromhex("00080000")


for destination, port in (("9.9.9.9", 53), ("9.9.9.9", 80), *[("10.1.2.3", 80)] * 4):
    for verdict in engine.outbound(udp(destination, port), now=0):
        said = verdict.reason.name if isinstance(verdict, wesper.Dropped) else type(verdict).__name__
        print(f"{destination}:{port}: {said}")
    while event := engine.next_event():
        print(f"  event: {event.kind.value} ({event.limit})")
print({name: count for name, count in engine.counters().items() if count})
