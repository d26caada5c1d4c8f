"""Suites and their algorithms, thin over a well-kept library."""

from .suites import SUITES, Kind, Suite, suite
from .transforms import InvalidTag, Transform, block_encrypt, cbc, hmac_tag, transform

__all__ = [
    "SUITES",
    "InvalidTag",
    "Kind",
    "Suite",
    "Transform",
    "block_encrypt",
    "cbc",
    "hmac_tag",
    "suite",
    "transform",
]
