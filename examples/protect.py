"""Protect a packet with ESP, open it again, and see a replay refused."""

from ipaddress import ip_address

import wesper

here, there = ip_address("192.0.2.1"), ip_address("192.0.2.2")
keys = {"spi": 0x1000, "key": bytes(range(32)), "salt": b"salt"}
packet = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")  # an ICMP echo request

sender = wesper.open_engine()
profile = wesper.Profile("aes-gcm-16", outer=wesper.Outer(local=here, remote=there))
sa = sender.install(wesper.SA(profile, wesper.Direction.OUT, **keys))
protected = sender.encapsulate(sa, packet, now=0)
assert isinstance(protected, wesper.Delivered)
print(f"{len(packet)} octets became {len(protected.packet)}, sequence number {protected.sequence}")

receiver = wesper.open_engine()
mirrored = wesper.Profile("aes-gcm-16", outer=wesper.Outer(local=there, remote=here))
receiver.install(wesper.SA(mirrored, wesper.Direction.IN, **keys))
opened = receiver.decapsulate(protected.packet, now=0)
assert isinstance(opened, wesper.Delivered)
print("opened again:", opened.packet == packet)

again = receiver.decapsulate(protected.packet, now=0)
assert isinstance(again, wesper.Dropped)
print("the same once more:", again.reason.verdict, "-", again.reason.sentence)
print({name: count for name, count in receiver.counters().items() if count})
