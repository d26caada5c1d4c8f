"""Live tunnels: one daemon, one interface, one engine, any number of tunnels and peers.

`file` reads what a tunnel is; `device` and `link` are its two sides; a `Loop` carries packets between them through an
engine; `daemon` owns all of it and `control` answers those who ask.
"""
