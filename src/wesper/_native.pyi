def version() -> str:
    """Return the version of the native engine, the same as that of the Python package it was built with."""
