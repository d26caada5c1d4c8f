"""Capture files: records of pcap and pcapng read and written as a stream, and the way to the IP header in a record.

Reading is a loop, writing a context manager:

    with open_capture("in.pcapng") as capture, create_capture("out.pcapng") as out:
        numbers = {}
        for record in capture:
            if record.interface not in numbers:
                numbers[record.interface] = out.add_interface(capture.interfaces[record.interface])
            out.write_record(record, interface=numbers[record.interface])

A file is hostile input: whatever its octets, it gives records or one `CaptureError`, in bounded memory.
"""

from wesper.errors import CaptureError
from wesper.pcap.capture import Capture, create_capture, open_capture
from wesper.pcap.classic import PcapWriter
from wesper.pcap.errors import CaptureIOError, CaptureTruncated
from wesper.pcap.link import LinkType, ip_offset, link_type_name
from wesper.pcap.pcapng_writer import PcapngWriter
from wesper.pcap.record import MAX_PACKET_OCTETS, OPT_COMMENT, Block, ByteOrder, Interface, Option, Record, Section
from wesper.pcap.writer import CaptureWriter

__all__ = [
    "MAX_PACKET_OCTETS",
    "OPT_COMMENT",
    "Block",
    "ByteOrder",
    "Capture",
    "CaptureError",
    "CaptureIOError",
    "CaptureTruncated",
    "CaptureWriter",
    "Interface",
    "LinkType",
    "Option",
    "PcapWriter",
    "PcapngWriter",
    "Record",
    "Section",
    "create_capture",
    "ip_offset",
    "link_type_name",
    "open_capture",
]
