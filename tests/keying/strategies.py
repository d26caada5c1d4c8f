"""Random SAs of key files, for hypothesis."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import strategies as st

from wesper.crypto import SUITES
from wesper.keying import Encapsulated, StaticSA
from wesper.sa import OPAQUE, AddressRange, Direction, Inner, Mode, Selector, UDPEncapsulation


@st.composite
def ranges(draw: st.DrawFn, version: int | None = None, *, single: bool = False) -> AddressRange:
    version = version or draw(st.sampled_from((4, 6)))
    top = (1 << (32 if version == 4 else 128)) - 1
    first = draw(st.integers(0, top))
    return AddressRange(version, first, first if single else draw(st.integers(first, top)))


ports = st.one_of(
    st.none(),
    st.just(OPAQUE),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda two: (min(two), max(two))),
)
selectors = st.builds(
    Selector,
    st.lists(ranges(), max_size=2).map(tuple),
    st.lists(ranges(), max_size=2).map(tuple),
    st.one_of(st.none(), st.integers(0, 255)),
    ports,
    ports,
)
_PORT = st.integers(1, 65535)


@st.composite
def static_sas(draw: st.DrawFn) -> StaticSA:
    """Any SA that a TOML file can hold."""
    suite = SUITES[draw(st.sampled_from(sorted(SUITES)))]
    version = draw(st.sampled_from((4, 6)))
    mode = draw(st.sampled_from((Mode.TRANSPORT, Mode.TUNNEL, Mode.BEET, None)))
    address = st.integers(0, (1 << 32) - 1).map(IPv4Address) if version == 4 else st.ip_addresses(v=6)
    esn = draw(st.booleans())
    return StaticSA(
        suite=suite.name,
        spi=draw(st.one_of(st.none(), st.integers(256, (1 << 32) - 1))),
        key=draw(st.sampled_from(suite.key_octets).flatmap(lambda n: st.binary(min_size=n, max_size=n))),
        salt=draw(st.binary(min_size=suite.salt_octets, max_size=suite.salt_octets)),
        auth_key=draw(st.binary(min_size=suite.auth_key_octets, max_size=suite.auth_key_octets)),
        name=draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=12)),
        direction=draw(st.sampled_from(Direction)),
        mode=mode,
        local=draw(st.one_of(st.none(), ranges(version))),
        remote=draw(st.one_of(st.none(), ranges(version))),
        inner=draw(st.builds(Inner, address, address)) if mode is Mode.BEET else None,
        encapsulation=draw(
            st.one_of(
                st.sampled_from(Encapsulated),
                st.builds(UDPEncapsulation, _PORT, _PORT, st.sampled_from((None, True, False))),
            )
        ),
        esn=esn,
        window=draw(st.sampled_from((0, 32, 1024, 1 << 20))),
        sequence=draw(st.integers(0, (1 << (64 if esn else 32)) - 1 if draw(st.booleans()) else 3)),
        selectors=draw(st.lists(selectors, max_size=2).map(tuple)),
    )
