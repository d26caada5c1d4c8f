"""Ten thousand packets in one call, over a thousand SAs that share a profile."""

from ipaddress import ip_address

import numpy as np

import wesper

here, there = ip_address("2001:db8::1"), ip_address("2001:db8::2")
random = np.random.default_rng(1)
spis = np.arange(0x1000, 0x1000 + 1000, dtype=np.uint32)
keys = random.integers(
    0, 256, (1000, 20), dtype=np.uint8
)  # AES-128 key and salt, a row an SA; not how real keys are made

engine = wesper.open_engine()
out = wesper.Profile("aes-gcm-16", outer=wesper.Outer(local=here, remote=there))
back = wesper.Profile("aes-gcm-16", outer=wesper.Outer(local=there, remote=here))
senders = engine.install_many(out, wesper.Direction.OUT, spis, keys)
engine.install_many(back, wesper.Direction.IN, spis, keys)

inner = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
packets = wesper.Packets.of([inner] * 10_000)
protected = engine.encapsulate_many(senders[np.arange(10_000) % 1000], packets, now=0)
opened = engine.decapsulate_many(protected.packets, now=0)

print(f"{engine.name} engine: {np.count_nonzero(opened.codes == 0)} of {len(packets)} opened")
print("octets equal:", all(packet == inner for packet in opened.packets))
print("sequence numbers of one SA:", protected.sequences[protected.sas == senders[0]])
