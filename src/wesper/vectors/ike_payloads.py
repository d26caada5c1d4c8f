"""The list `ike_payloads`: IKEv2 payloads, read and built again."""

from __future__ import annotations

from ..keying.ike_payloads import MalformedPayload, Notify, SAPayload, parse_notify, parse_sa
from .case import Case
from .fields import Fields


def run(entry: Fields, case: Case) -> None:
    """Read a payload and build it again from the values."""
    payload = entry.octets("payload_hex")
    case.equal("payload", payload, parse(payload).build())


def parse(payload: bytes) -> SAPayload | Notify:
    """Read a payload whose kind nobody has told: an SA payload if its proposals add up, else a Notify."""
    try:
        return parse_sa(payload)
    except MalformedPayload:
        return parse_notify(payload)
