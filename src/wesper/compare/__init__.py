"""One packet through every protocol and mode, side by side: octets, what they are, what a network sees of them."""

from .cases import Case, cases
from .comparison import FLOWS, Compared, Comparison, compare
from .page import page
from .spans import Kind, Span, spans

__all__ = ["FLOWS", "Case", "Compared", "Comparison", "Kind", "Span", "cases", "compare", "page", "spans"]
