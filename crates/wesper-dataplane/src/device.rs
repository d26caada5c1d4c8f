//! The protected side: a TUN device, or a packet socket on one end of a veth pair.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use crate::join::Piece;
use crate::sys;
use crate::vnet::{VNET_HEADER, Vnet};

const ETHERNET: usize = 14;
/// Octets of room that one read needs: the largest super-packet with all that may stand before it.
pub const READ_ROOM: usize = 65535 + VNET_HEADER + ETHERNET + 1;

/// A device that IP packets are read from and written to.
pub struct Device {
    file: File,
    vnet: bool,
    /// Destination and source address of the frames that are written; none: no Ethernet header.
    ethernet: Option<[u8; 12]>,
    udp_segmentation: bool,
}

/// What one read gave.
pub enum Got {
    /// Nothing for now.
    Nothing,
    /// What is no IP packet, or of a kind that was never asked for.
    Other,
    /// A packet or super-packet, its place in the buffer, and what the device says of it.
    Packet(Range<usize>, Vnet),
}

impl Device {
    /// Takes a device over: a copy of its descriptor, which becomes non-blocking.
    ///
    /// vnet: packets have a virtio_net_hdr of ten octets. ethernet: destination and source address of what is written,
    /// if packets have an Ethernet header. udp_segmentation: it takes UDP super-packets.
    pub fn new(fd: RawFd, vnet: bool, ethernet: Option<[u8; 12]>, udp_segmentation: bool) -> io::Result<Self> {
        let file = File::from(sys::duplicate(fd)?);
        sys::set_nonblocking(file.as_fd())?;
        Ok(Self { file, vnet, ethernet, udp_segmentation: udp_segmentation && vnet })
    }

    /// For waiting.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether super-packets may be written.
    pub fn takes_segments(&self) -> bool {
        self.vnet
    }

    /// Whether UDP super-packets may be written.
    pub fn takes_udp_segments(&self) -> bool {
        self.udp_segmentation
    }

    /// Reads one packet to `at` in the buffer, which has [`READ_ROOM`] octets from there.
    pub fn read(&self, buf: &mut [u8], at: usize) -> io::Result<Got> {
        let octets = match (&self.file).read(buf.get_mut(at..).unwrap_or_default()) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Nothing),
            Err(error) => return Err(error),
        };
        let end = at + octets;
        let (mut start, link) = (at, if self.ethernet.is_some() { ETHERNET } else { 0 });
        let mut vnet = Some(Vnet::default());
        if self.vnet {
            let header = buf.get(start..end).and_then(|octets| octets.first_chunk::<VNET_HEADER>());
            vnet = header.and_then(|header| Vnet::read(header, link));
            start += VNET_HEADER;
        }
        start += link;
        let is_ip = match buf.get(start..end).and_then(|packet| packet.first()) {
            Some(first) if link != 0 => match buf.get(start - 2..start) {
                Some([8, 0]) => first >> 4 == 4,
                Some([0x86, 0xdd]) => first >> 4 == 6,
                _ => false,
            },
            first => first.is_some(),
        };
        match vnet {
            Some(vnet) if is_ip => Ok(Got::Packet(start..end, vnet)),
            _ => Ok(Got::Other),
        }
    }

    /// Writes one packet: headers, then stretches of a buffer.
    pub fn write(&self, vnet: Vnet, head: &[u8], buf: &[u8], pieces: &[Piece]) -> io::Result<()> {
        let first = head.first().or_else(|| pieces.first().and_then(|piece| piece.of(buf).first()));
        let mut front = [0; VNET_HEADER + ETHERNET];
        let mut octets = 0;
        if self.vnet {
            let header = vnet.write(if self.ethernet.is_some() { ETHERNET } else { 0 });
            front[..VNET_HEADER].copy_from_slice(&header);
            octets += VNET_HEADER;
        }
        if let Some(addresses) = self.ethernet {
            let ether_type = if first.is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
            front[octets..octets + 12].copy_from_slice(&addresses);
            front[octets + 12..octets + ETHERNET].copy_from_slice(&ether_type);
            octets += ETHERNET;
        }
        let mut parts = [IoSlice::new(&[]); MOST_PARTS];
        parts[0] = IoSlice::new(&front[..octets]);
        parts[1] = IoSlice::new(head);
        let count = 2 + pieces.len();
        let Some(places) = parts.get_mut(2..count) else { return Err(io::ErrorKind::InvalidInput.into()) };
        for (place, piece) in places.iter_mut().zip(pieces) {
            *place = IoSlice::new(piece.of(buf));
        }
        (&self.file).write_vectored(&parts[..count]).map(|_| ())
    }
}

/// Parts of one write: two of headers, and as many as [`crate::join`] puts together.
const MOST_PARTS: usize = 2 + crate::join::MOST_PIECES;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_is_written_to_one_end_is_read_at_the_other() {
        for (vnet, ethernet) in [(false, None), (true, None), (false, Some([2; 12])), (true, Some([2; 12]))] {
            let (one, other) = UnixDatagram::pair().expect("a pair");
            let writer = Device::new(one.as_raw_fd(), vnet, ethernet, true).expect("a device");
            let reader = Device::new(other.as_raw_fd(), vnet, ethernet, true).expect("a device");
            let mut buf = vec![0; READ_ROOM + 7];
            assert!(matches!(reader.read(&mut buf, 7), Ok(Got::Nothing)));
            let octets: Vec<u8> = (0x60..0x90).collect();
            let told = Vnet { checksum: Some((40, 6)), ..Vnet::default() };
            writer.write(told, &octets[..20], &octets, &[Piece { at: 20, len: 28 }]).expect("room");
            let Ok(Got::Packet(place, vnet_read)) = reader.read(&mut buf, 7) else { panic!("a packet") };
            assert_eq!(&buf[place], &octets);
            assert_eq!(vnet_read, if vnet { told } else { Vnet::default() });
        }
    }

    #[test]
    fn frames_that_are_not_ip_are_other_things() {
        let (one, other) = UnixDatagram::pair().expect("a pair");
        let reader = Device::new(other.as_raw_fd(), false, Some([2; 12]), false).expect("a device");
        let mut buf = vec![0; READ_ROOM];
        let frame = |kind: [u8; 2], first: u8| [&[2; 12][..], &kind, &[first, 0, 0]].concat();
        for frame in [frame([8, 6], 0x45), frame([8, 0], 0x60), frame([0x86, 0xdd], 0x45), vec![2; 14], vec![2; 3]] {
            one.send(&frame).expect("room");
            assert!(matches!(reader.read(&mut buf, 0), Ok(Got::Other)));
        }
    }
}
