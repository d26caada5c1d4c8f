"""Header formats, one file a protocol, declared once; no behaviour."""

from .format import Field, Header, TruncatedHeader, diagram

__all__ = ["Field", "Header", "TruncatedHeader", "diagram"]
