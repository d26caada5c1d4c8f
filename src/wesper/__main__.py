"""`python -m wesper`."""

from .cli import main

main()
