"""IKEv2 payloads that negotiate the family: SA and Notify (RFC 7296 §3.2, §3.3, §3.10).

Names in filters are Wireshark's.
"""

from __future__ import annotations

from .format import Header, bits, octets


class PayloadHeader(Header, name="isakmp", title="IKEv2 generic payload header", source="RFC 7296 §3.2"):
    """Stands in front of every payload."""

    next_payload: int = bits(8, "RFC 7296 §3.2", "kind of the payload behind this one", wire_name="nextpayload")
    critical: int = bits(1, "RFC 7296 §3.2", "refuse the message if the kind is not known", wire_name="criticalpayload")
    reserved: int = bits(7, "RFC 7296 §3.2", "sent zero, ignored")
    length: int = bits(16, "RFC 7296 §3.2", "with this header", unit="octets", wire_name="payloadlength")


class NotifyHeader(Header, name="isakmp.notify", title="IKEv2 Notify payload", source="RFC 7296 §3.10"):
    """Behind the generic header; SPI and data follow."""

    protocol_id: int = bits(8, "RFC 7296 §3.10", "what SPI it is about; 0: none", wire_name="protoid")
    spi_size: int = bits(8, "RFC 7296 §3.10", "of the SPI", unit="octets")
    type: int = bits(16, "RFC 7296 §3.10", "what is notified", wire_name="msgtype")


class ProposalHeader(Header, name="isakmp.prop", title="IKEv2 proposal", source="RFC 7296 §3.3.1"):
    """One of the substructures of an SA payload; its transforms follow."""

    last: int = bits(8, "RFC 7296 §3.3.1", "2: more follow, 0: the last")
    reserved: int = bits(8, "RFC 7296 §3.3.1", "sent zero, ignored")
    length: int = bits(16, "RFC 7296 §3.3.1", "with its transforms", unit="octets")
    number: int = bits(8, "RFC 7296 §3.3.1", "1, 2, ...")
    protocol_id: int = bits(8, "RFC 7296 §3.3.1", "what is proposed: ESP, EESP", wire_name="protoid")
    spi_size: int = bits(8, "RFC 7296 §3.3.1", "of the SPI", unit="octets", wire_name="spisize")
    transforms: int = bits(8, "RFC 7296 §3.3.1", "how many")
    spi: bytes = octets("RFC 7296 §3.3.1", "the sender's", length=lambda h: h.spi_size)


class TransformHeader(Header, name="isakmp.trans", title="IKEv2 transform", source="RFC 7296 §3.3.2"):
    """One of the substructures of a proposal; its attributes follow."""

    last: int = bits(8, "RFC 7296 §3.3.2", "3: more follow, 0: the last")
    reserved: int = bits(8, "RFC 7296 §3.3.2", "sent zero, ignored")
    length: int = bits(16, "RFC 7296 §3.3.2", "with its attributes", unit="octets")
    type: int = bits(8, "RFC 7296 §3.3.2", "kind of algorithm")
    reserved2: int = bits(8, "RFC 7296 §3.3.2", "sent zero, ignored")
    id: int = bits(16, "RFC 7296 §3.3.2", "which one")


class AttributeHeader(Header, name="isakmp.attr", title="IKEv2 transform attribute", source="RFC 7296 §3.3.5"):
    """An attribute with its value, or with the length of the value that follows."""

    short: int = bits(1, "RFC 7296 §3.3.5", "AF: the value is in here")
    type: int = bits(15, "RFC 7296 §3.3.5", "14: key length in bits")
    value: int = bits(16, "RFC 7296 §3.3.5", "value, or its length")


class WESPv2ModeData(
    Header, name="ike.wespv2", title="USE_WESPv2_MODE", source="draft-klassert-ipsecme-wespv2-01 §3.1"
):
    """Data of the notify."""

    reserved: int = bits(1, "draft-klassert-ipsecme-wespv2-01 §3.1", "sent zero, ignored")
    flow_identifiers: int = bits(1, "draft-klassert-ipsecme-wespv2-01 §3.1", "F: they are supported")
    crypt_offset_words: int = bits(
        6, "draft-klassert-ipsecme-wespv2-01 §3.1", "the largest that is accepted", unit="x 4 octets"
    )
