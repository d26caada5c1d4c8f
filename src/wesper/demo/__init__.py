"""The demonstration: two hosts talk past a router that watches, in the clear and then through tunnels.

`live` runs it, `wire` says what the router saw and `tshark` what that makes of it, `counted` has the router's kernel
count flows, `traffic` is what the hosts send, `forge` what the router sends, and `story` makes the report of it.
`wesper demo` shows it on a terminal.
"""
