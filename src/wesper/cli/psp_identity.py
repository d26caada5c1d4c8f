"""`wesper psp identity`: who a host is to its PSP peers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..psp import identity as identities


def identity(
    name: str = "",
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path(),
    days: int = identities.DAYS,
    show: Path | None = None,
) -> int:
    """Make a certificate that signs itself, and its key, and print the fingerprint that peers pin.

    For labs, and for hosts without a certificate authority. Two files are written, NAME.crt and NAME.key, the key for
    its owner alone; nothing is overwritten. Give peers the fingerprint by a way that nobody else can change.

    Parameters
    ----------
    name
        What the host is called in the certificate and in peers' logs; this host's name unless given.
    output
        The folder for both files.
    days
        How long the certificate is valid.
    show
        Print the fingerprint of this certificate, and make nothing.
    """
    if show is not None:
        print(identities.written(identities.fingerprint(identities.read_certificate(show))))
        return 0
    certificate, key, fingerprint = identities.make(name or socket.gethostname(), output, days=days)
    print(f"certificate  {certificate}\nkey          {key}\nfingerprint  {identities.written(fingerprint)}")
    return 0
