"""`wesper pcap`: encrypt, decrypt and describe capture files, and convert their keys."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..errors import CaptureError, ConfigError
from ..keying import files_with_keys, format_of, load_all_keys, save_keys
from ..pcap import create_capture, open_capture
from ..pcap import info as pcap_info
from ..pcap.batch import Batches
from ..pcap.decrypt import decrypt as decrypt_capture
from ..pcap.encrypt import encrypt as encrypt_capture
from ..pcap.esp_seen import NAMES, Seen
from ..pcap.tally import MAX_SAS, SATally, Tally
from . import CHECK_FAILED, IO_TROUBLE
from .packet_input import PSPPorts, keep_inputs, psp_ports
from .packet_view import PIPED_COLUMNS

_Output = Annotated[str, Parameter(name=("--output", "-o"), allow_leading_hyphen=True)]
_Source = Annotated[str, Parameter(allow_leading_hyphen=True)]
_HINTS = {
    "auth": "another key, or esn set otherwise than the peers have it",
    "encap_mismatch": 'encapsulation = "auto" takes packets with and without UDP',
    "no_device_key": "the key file has neither that association nor the receiver's device key",
    "no_sa": "no SA of the key file has that SPI and those addresses",
    "replay": "numbers that came before, or ESN that starts in another half: sequence in the key file",
    "too_big": "protected, it would be longer than an IP packet may be",
}


def decrypt(
    source: _Source,
    /,
    *,
    output: _Output,
    keys: Path,
    engine: Literal["reference", "native"] | None = None,
    inner_only: bool = False,
    anti_replay: bool = False,
    json: bool = False,
) -> int:
    """Open the ESP packets of a capture, with and without UDP around them, and its PSP packets.

    Inner packets come on an interface of their own (link type RAW) right behind the packets that they came in, with SPI
    and sequence number or IV as comment. What else the capture holds is carried through. A .pcap output has one link
    type only and so takes the inner packets alone. Exits with 1 if nothing could be opened, with 4 if the capture ends
    inside a packet; the output is whole either way.

    Parameters
    ----------
    source
        The capture, pcap or pcapng, gzipped or not; - for standard input.
    output
        The new capture; - for standard output.
    keys
        File of SAs, in wesper's TOML or Wireshark's esp_sa form; of PSP associations and devices, in TOML.
    engine
        Which engine opens packets: reference or native; by default the fastest there is.
    inner_only
        Leave out all but the inner packets.
    anti_replay
        Drop what the SAs' replay windows would drop.
    json
        Print the summary as JSON on standard error.
    """
    sas, psp = load_all_keys(keys)
    keep_inputs(output, source, *files_with_keys(keys))
    tally = Tally()
    with Batches(source, _truncated(tally)) as batches, create_capture(output) as out, _progress() as progress:
        decrypt_capture(
            batches,
            out,
            sas,
            tally,
            psp=psp,
            engine=engine,
            inner_only=inner_only,
            anti_replay=anti_replay,
            progress=lambda so_far: progress(so_far.packets),
        )
    _summary(tally, "opened", json)
    return IO_TROUBLE if tally.truncated else 0 if tally.done else CHECK_FAILED


def encrypt(
    source: _Source,
    /,
    *,
    output: _Output,
    keys: Path,
    engine: Literal["reference", "native"] | None = None,
    sequence: int | None = None,
    protected_only: bool = False,
    json: bool = False,
) -> int:
    """Protect the packets of a capture with the outbound SAs and PSP associations of a key file.

    A packet goes to the first SA whose selectors match, else to the one that has none. Times and link-layer headers
    stay. Packets that no SA is for are carried through; one that its SA can't take is dropped and counted, never
    written in the clear. Exits with 1 if nothing could be protected, with 4 if the capture ends inside a packet; the
    output is whole either way.

    Sequence numbers make the IVs, and PSP's IVs count up: never use one twice under the same key. The summary says
    where the next run starts.

    Parameters
    ----------
    source
        The capture, pcap or pcapng, gzipped or not; - for standard input.
    output
        The new capture; - for standard output.
    keys
        File of SAs, in wesper's TOML form.
    engine
        Which engine protects packets: reference or native; by default the fastest there is.
    sequence
        Number of each SA's first packet, IV of each association's; by default the one after the file's `sequence` or
        `iv`.
    protected_only
        Leave out packets that no SA is for.
    json
        Print the summary as JSON on standard error.
    """
    sas, psp = load_all_keys(keys)
    keep_inputs(output, source, *files_with_keys(keys))
    tally = Tally()
    with Batches(source, _truncated(tally)) as batches, create_capture(output) as out, _progress() as progress:
        encrypt_capture(
            batches,
            out,
            sas,
            tally,
            psp=psp.associations,
            engine=engine,
            sequence=sequence,
            protected_only=protected_only,
            progress=lambda so_far: progress(so_far.packets),
        )
    _summary(tally, "protected", json)
    return IO_TROUBLE if tally.truncated else 0 if tally.done else CHECK_FAILED


def info(source: _Source, /, *, psp_port: PSPPorts = None, json: bool = False) -> int:
    """Say what a capture holds: format, interfaces, packets, times, protocols, and each SPI with its numbers.

    Needs no keys. Exits with 4 if the capture ends inside a packet.

    Parameters
    ----------
    source
        The capture, pcap or pcapng, gzipped or not; - for standard input.
    psp_port
        UDP destination port that is PSP's instead of 1000; may be given again for more.
    json
        Print one JSON object.
    """
    found = pcap_info.Info(psp_ports=psp_ports(psp_port))

    def truncated(error: CaptureError) -> None:
        found.truncated = str(error)

    with open_capture(source, on_truncated=truncated) as capture, _progress() as progress:
        pcap_info.read_info(capture, found, progress)
    if json:
        print(json_module.dumps(found.as_json(), indent=1))
    else:
        _print_info(_console(), found)
    if found.truncated:
        print(f"wesper: {found.truncated}", file=sys.stderr)
    return IO_TROUBLE if found.truncated else 0


def keys(source: Path, /, *, output: _Output) -> int:
    """Convert a key file between wesper's TOML and Wireshark's esp_sa form.

    An output that ends in .toml gets TOML, any other, and standard output, what the input is not. The file is written
    for its owner's eyes only (mode 0600). Exits with 1 if an SA was left out because Wireshark has no name for its
    suite.

    Parameters
    ----------
    source
        The key file; its content tells its form.
    output
        The new key file; - for standard output.
    """
    sas, psp = load_all_keys(source)
    if not sas:
        raise ConfigError("no SA of ESP: Wireshark has no form for PSP's keys", path=source, expected="[[sa]] tables")
    keep_inputs(output, *files_with_keys(source))
    text = source.read_text()
    form: Literal["toml", "esp_sa"] = "esp_sa" if format_of(text) == "toml" else "toml"
    if output.endswith(".toml"):
        form = "toml"
    left_out = save_keys(sas, output, form)
    for sa in left_out:
        print(f"wesper: {sa.title} is left out: Wireshark has no name for {sa.suite}", file=sys.stderr)
    if psp:
        print("wesper: what the file says of PSP is left out: Wireshark has no form for it", file=sys.stderr)
    return CHECK_FAILED if left_out or psp else 0


def _truncated(tally: Tally) -> Callable[[CaptureError], None]:
    def tell(error: CaptureError) -> None:
        tally.truncated = str(error)

    return tell


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show how many packets are done on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda packets: None
        return
    with console.status("reading") as status:
        yield lambda packets: status.update(f"{packets:,} packets")


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPED_COLUMNS)


def _summary(tally: Tally, done: str, as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(tally.as_json(done)), file=sys.stderr)
        return
    console = _console(stderr=True)
    dropped = tally.dropped.total()
    packets = f"{tally.packets:,} packet{'' if tally.packets == 1 else 's'}"
    console.print(f"{packets}: {tally.done:,} {done}, {dropped:,} dropped, {tally.other:,} other")
    for verdict, count in tally.dropped.most_common():
        hint = f" ({_HINTS[verdict]})" if verdict in _HINTS else ""
        console.print(f"  {verdict}: {count:,}: {tally.sentences[verdict]}{hint}")
    if tally.cut:
        console.print(f"  {tally.cut:,} of them were cut short by the capture (its snapshot length)")
    if tally.reassembled or tally.incomplete:
        console.print(f"  fragments: {tally.reassembled:,} made whole, {tally.incomplete:,} incomplete")
    for entries, number in _by_number(tally):
        if entries:
            console.print(_sa_table(entries, done, number))
    if tally.unlisted:
        console.print(f"{tally.unlisted:,} packets of further SPIs: the table holds {MAX_SAS:,}.")
    if tally.psp_counters:
        counted = (f"{name} {count:,}" for name, count in tally.psp_counters.items() if count)
        console.print(f"PSP: {', '.join(counted) or 'nothing'}")
    if tally.truncated:
        console.print(f"wesper: {tally.truncated}", style="bold red")


def _by_number(tally: Tally) -> list[tuple[list[SATally], str]]:
    """Return ESP's rows and PSP's, each with what their numbers are called."""
    rows = tally.sas.values()
    return [([row for row in rows if not row.is_psp], "sequence"), ([row for row in rows if row.is_psp], "IV")]


def _sa_table(entries: list[SATally], done: str, number: str) -> Table:
    table = _plain_table("SPI", "name", "suite", done + ">", "octets>", number + ">")
    for entry in entries:
        numbers = f"{entry.first}-{entry.last}"
        table.add_row(
            f"{entry.spi:#010x}", entry.sa.name, entry.suite, f"{entry.packets:,}", f"{entry.octets:,}", numbers
        )
    return table


def _plain_table(*columns: str) -> Table:
    """Return a table without frame.   columns: titles; > behind one puts it to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in columns:
        table.add_column(title.removesuffix(">"), justify="right" if title.endswith(">") else "left", no_wrap=True)
    return table


def _print_info(console: Console, found: pcap_info.Info) -> None:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row("format", found.format)
    for key, text in found.section.items():
        facts.add_row(key, text)
    cut = f", {found.cut:,} of them cut short" if found.cut else ""
    facts.add_row("packets", f"{found.packets:,}{cut}")
    sizes = f", {found.smallest}-{found.largest} each" if found.packets else ""
    facts.add_row("octets", f"{found.octets:,} kept of {found.original_octets:,}{sizes}")
    if found.first_ns is not None and found.last_ns is not None:
        facts.add_row("from", _time(found.first_ns))
        facts.add_row("to", f"{_time(found.last_ns)}  ({(found.last_ns - found.first_ns) / 1e9:.6f} s)")
    console.print(facts)
    interfaces = _plain_table("interface", "link type", "snapshot>", "packets>")
    for number, each in enumerate(found.interfaces):
        snap = str(each["snap_octets"] or "any")
        interfaces.add_row(each["name"] or str(number), each["link_type"], snap, f"{each['packets']:,}")
    protocols = _plain_table("protocol", "packets>")
    for name, count in found.protocols.most_common():
        protocols.add_row(name, f"{count:,}")
    console.print("", interfaces, "", protocols, sep="\n")
    seen = list(found.sas.rows.values())
    esp, kin = [row for row in seen if row.protocol == "esp"], [row for row in seen if row.protocol != "esp"]
    if esp:
        console.print("", _spi_table(esp), sep="\n")
    if kin:
        console.print("", _kin_table(kin), sep="\n")
    if any(row.numbered for row in seen):
        console.print(
            "Numbers are the 32 bits on the wire; whether they are extended (ESN) can't be seen there.", style="dim"
        )
    if any(not row.numbered for row in seen):
        console.print("EESP's numbers stand where only its peers know; flows are its Session IDs.", style="dim")
    if found.psp:
        console.print("", _psp_table(found), sep="\n")
    if found.unlisted:
        console.print(f"{found.unlisted:,} packets of further SPIs: the table holds {pcap_info.MAX_SAS:,}.")


def _psp_table(found: pcap_info.Info) -> Table:
    titles = ("SPI", "from", "to", "cipher", "offset>", "cookie", "packets>", "octets>", "IV>", "backwards>", "twice>")
    table = _plain_table(*titles)
    for seen in found.psp.values():
        row = seen.as_json()
        table.add_row(
            row["spi"],
            seen.source,
            seen.destination,
            row["cipher"],
            str(seen.crypt_offset_words),
            "yes" if seen.cookie else "no",
            f"{seen.packets:,}",
            f"{seen.octets:,}",
            f"{seen.first:#x}-{seen.highest:#x}",
            f"{seen.backwards:,}",
            f"{seen.twice:,}",
        )
    return table


def _spi_table(rows: list[Seen]) -> Table:
    titles = ("SPI", "from", "to", "in", "packets>", "octets>", "sequence>", "missing>", "twice>", "late>", "wraps>")
    table = _plain_table(*titles)
    for seen in rows:
        counts = f"{seen.packets:,}", f"{seen.octets:,}"
        table.add_row(
            f"{seen.spi:#010x}", seen.source, seen.destination, "UDP" if seen.udp else "IP", *counts, *_numbers(seen)
        )
    return table


def _kin_table(rows: list[Seen]) -> Table:
    titles = ("SPI", "from", "to", "protocol", "packets>", "octets>", "flows>", "sequence>", "missing>", "twice>")
    table = _plain_table(*titles)
    for seen in rows:
        protocol = NAMES[seen.protocol] + (" in UDP" if seen.udp else "")
        flows = f"{len(seen.flows):,}{'+' if seen.more_flows else ''}" if seen.flows or seen.more_flows else "-"
        counts = f"{seen.packets:,}", f"{seen.octets:,}", flows
        numbers = _numbers(seen)[:3] if seen.numbered else ("-", "-", "-")
        table.add_row(f"{seen.spi:#010x}", seen.source, seen.destination, protocol, *counts, *numbers)
    return table


def _numbers(seen: Seen) -> tuple[str, ...]:
    row = seen.as_json()
    counts = (f"{row[key]:,}" for key in ("missing", "duplicates", "late", "wraps"))
    return f"{row['first_sequence']}-{row['last_sequence']}", *counts


def _time(stamp_ns: int) -> str:
    seconds, fraction = divmod(stamp_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction:09} UTC"
