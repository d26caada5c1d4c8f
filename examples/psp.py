"""PSP between two devices: a receiver that keeps nothing, ten thousand keys in a call, and two rotations."""

from wesper import Dropped, Packets, psp

receiver, sender = psp.Device(), psp.Device()
packet = bytes.fromhex("4500001c0000000040118e95c0000201c63364070001000200080000")  # UDP over IPv4

association = receiver.allocate()
protected = sender.encapsulate(psp.Profile(), packet, association.spi, association.key)
assert isinstance(protected, bytes)
opened = receiver.decapsulate(protected)
assert isinstance(opened, psp.Opened)
print(f"{len(packet)} octets became {len(protected)}; opened again: {opened.packet == packet}")

spis, keys = receiver.allocate_many(10_000)
sent = sender.encapsulate_many(psp.Profile(), Packets.of([packet] * 10_000), spis, keys)
got = receiver.decapsulate_many(sent.packets)
print(f"{len(set(got.spis.tolist()))} associations used, {int((got.codes == 0).sum())} packets delivered")

receiver.rotate()
print("after one rotation:", type(receiver.decapsulate(protected)).__name__)
receiver.rotate()
verdict = receiver.decapsulate(protected)
assert isinstance(verdict, Dropped)
print("after two:", verdict.reason.verdict, "-", verdict.reason.sentence)
print({name: count for name, count in receiver.counters().items() if count})
