#!/usr/bin/env bash
# Makes the captures of this folder with the programs named in README.md. Needs root, for a network namespace.
set -eu
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
python3 - <<'P'
from scapy.all import *
def times(packets):
    for i, p in enumerate(packets):
        p.time = 1_700_000_000 + i * 0.25 + 0.000123
    return packets
a, b = "02:00:00:00:00:01", "02:00:00:00:00:02"
eth = Ether(src=a, dst=b)
v4 = IP(src="192.0.2.1", dst="198.51.100.2", id=7)
v6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
udp = UDP(sport=4500, dport=53) / Raw(b"hello")
packets = times([
    eth / v4 / udp,
    eth / v6 / udp,
    eth / Dot1Q(vlan=7) / v4 / udp,
    eth / Dot1AD(vlan=9) / Dot1Q(vlan=7) / v6 / udp,
    eth / ARP(psrc="192.0.2.1", pdst="192.0.2.2"),
    eth / PPPoE(sessionid=5) / PPP(proto=0x21) / v4 / udp,
    Dot3(src=a, dst=b) / LLC() / SNAP(code=0x0800) / v4 / udp,
    Ether(src=a, dst=b, type=0x8847) / Raw(bytes.fromhex("00064040 00065140".replace(" ", ""))) / v4 / udp,
])
wrpcap("ethernet-big-endian.pcap", packets, endianness=">")
wrpcap("ethernet-nanosecond.pcap", packets, nano=True)
wrpcap("raw.pcap", times([v4 / udp, v6 / udp]), linktype=101)
P
editcap -F pcapng --capture-comment "two words" ethernet-nanosecond.pcap ethernet.pcapng
editcap -F pcapng -a 2:second -a "4:fourth packet" ethernet.pcapng ethernet-comments.pcapng
editcap -F modpcap ethernet-nanosecond.pcap modified.pcap
editcap -F nsecpcap -s 40 ethernet-big-endian.pcap snapped-nanosecond.pcap
mergecap -F pcapng -w two-interfaces.pcapng ethernet-nanosecond.pcap raw.pcap
gzip -n -k -c raw.pcap > raw.pcap.gz
# Cooked captures, from a network namespace that holds nothing but its own loopback
for kind in LINUX_SLL LINUX_SLL2; do
  scratch=$scratch unshare -n bash -c '
    ip link set lo up
    dumpcap -q -i any -y '$kind' -c 4 -w "$scratch/cooked.pcapng" >/dev/null 2>&1 & dump=$!
    sleep 2
    python3 -c "
import socket
for family, host in ((socket.AF_INET, \"127.0.0.1\"), (socket.AF_INET6, \"::1\")):
    sender = socket.socket(family, socket.SOCK_DGRAM)
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.bind((host, 0))
    for _ in range(2):
        sender.sendto(b\"cooked\", receiver.getsockname())
"
    wait $dump'
  editcap -F pcap "$scratch/cooked.pcapng" cooked-$(echo ${kind#LINUX_} | tr A-Z a-z).pcap
done
printf 'SERVER_HANDSHAKE_TRAFFIC_SECRET %064d %064d\n' 1 2 > "$scratch/keylog"
editcap -F pcapng --inject-secrets "tls,$scratch/keylog" raw.pcap secrets.pcapng
printf '0000 45 00 00 1c 00 01 00 00 40 11 00 00 c0 00 02 01\n0010 c6 33 64 02 11 94 11 94 00 08 00 00\n' | text2pcap -q -N wan0 -l 101 - named.pcapng
# Which kernel and processor made these is nobody's business; the text keeps its length
for file in named.pcapng two-interfaces.pcapng; do
  perl -pi -e 's/(Linux \d[-\w.]*|Intel\(R\)[^\0]*?SSE4\.2\))/"x" x length $1/eg' "$file"
done
