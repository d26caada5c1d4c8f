"""The command line: `wesper VERB` for everyday words, `wesper NOUN VERB` for the rest.

Each room's commands stand in a file of their own here and are imported when they are called.
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError, Parameter

from .. import __version__
from ..errors import ExitCode, WesperError

CHECK_FAILED, USAGE, MISSING = ExitCode.CHECK_FAILED, ExitCode.USAGE, ExitCode.MISSING
IO_TROUBLE, INTERRUPTED = ExitCode.IO_TROUBLE, ExitCode.INTERRUPTED

app = App(
    name="wesper",
    version=__version__,
    help="The userspace home of Linux's packet-encryption family.",
    help_on_error=False,
    # A flag that is off needs no --no-flag, and no "[default: False]" in its help.
    default_parameter=Parameter(negative=(), show_default=lambda value: value or None),
)

_pcap = App(name="pcap", help="Encrypt, decrypt and describe capture files.")
_vectors = App(name="vectors", help="Run vector files.")
_lab = App(name="lab", help="Run labs of hosts, routers and links, without privilege.")
_kernel = App(name="kernel", help="Make and boot real Linux kernels, without privilege.")
_psp = App(name="psp", help="PSP: this host's daemon, keys, and the devices of this kernel.")
_psp_device = App(name="device", help="The PSP devices of this kernel.")
_wireshark = App(name="wireshark", help="Dissectors for Wireshark and tshark.")
for group in (_pcap, _vectors, _lab, _kernel, _psp, _wireshark):
    app.command(group)
_psp.command(_psp_device)

app.command("wesper.cli.tunnel:up")
app.command("wesper.cli.tunnel:down")
app.command("wesper.cli.tunnel:reload")
app.command("wesper.cli.tunnel:status")
app.command("wesper.cli.tunnel:check")
app.command("wesper.cli.tunnel:keygen")
app.command("wesper.cli.dissect:dissect")
app.command("wesper.cli.compare:compare")
app.command("wesper.cli.bench:bench")
app.command("wesper.cli.demo:demo")
app.command("wesper.cli.completion:completion")
app.command("wesper.cli.man:man")
app.command("wesper.cli.trace:trace")
app.command("wesper.cli.watch:top")
app.command("wesper.cli.watch:capture")
app.command("wesper.cli.watch:keys")
app.command("wesper.cli.watch:metrics")
_pcap.command("wesper.cli.pcap:info")
_pcap.command("wesper.cli.pcap:encrypt")
_pcap.command("wesper.cli.pcap:decrypt")
_pcap.command("wesper.cli.pcap:keys")
_vectors.command("wesper.cli.vectors:run")
_lab.command("wesper.cli.lab:run")
_lab.command("wesper.cli.lab:execute", name="exec")
_lab.command("wesper.cli.lab:list_", name="list")
_lab.command("wesper.cli.lab:show")
_lab.command("wesper.cli.lab:set_", name="set")
_kernel.command("wesper.cli.kernel:list_", name="list")
_kernel.command("wesper.cli.kernel:build")
_kernel.command("wesper.cli.kernel:boot")
_kernel.command("wesper.cli.kernel:run")
_psp.command("wesper.cli.psp:keys")
_psp.command("wesper.cli.psp_identity:identity")
_psp.command("wesper.cli.psp_host:up")
_psp.command("wesper.cli.psp_host:down")
_psp.command("wesper.cli.psp_host:status")
_psp.command("wesper.cli.psp_host:rotate")
_psp_device.command("wesper.cli.psp_device:list_", name="list")
_psp_device.command("wesper.cli.psp_device:set_", name="set")
_psp_device.command("wesper.cli.psp_device:rotate")
_psp_device.command("wesper.cli.psp_device:stats")
_psp_device.command("wesper.cli.psp_device:watch")
_psp_device.command("wesper.cli.psp_device:associate")
_psp_device.command("wesper.cli.psp_device:disassociate")
_wireshark.command("wesper.cli.wireshark:install")
_wireshark.command("wesper.cli.wireshark:show")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    0 done, 1 checked and failed, 2 usage or config, 3 capability, engine or feature missing, 4 I/O, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or not {"--help", "-h"}.isdisjoint(words):
        _know_all()
    try:
        result = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(str(error), USAGE)
    except WesperError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has had enough; Python would complain on exit
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), IO_TROUBLE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _know_all() -> None:
    """Import all commands: a list of them tells what each does only if it is loaded."""
    from .man import commands

    for _ in commands():
        pass


def _fail(message: str, code: int) -> None:
    print(f"wesper: {message}", file=sys.stderr)
    sys.exit(code)


__all__ = ["CHECK_FAILED", "INTERRUPTED", "IO_TROUBLE", "MISSING", "USAGE", "app", "main"]
