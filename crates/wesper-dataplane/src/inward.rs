//! From a link to the device: receive, put headers back, open, join, write.

use std::io;
use std::net::SocketAddr;

use wesper_core::selectors::Way;
use wesper_core::steering;

use crate::Shared;
use crate::carrier::{Carrier, Inbound};
use crate::counters::inward::{
    ALL, BAD_DATAGRAM, BATCHES, BY_ENGINE, DEVICE_DOWN, DEVICE_FULL, DEVICE_REFUSED, OCTETS, PACKETS, RECEIVE_ERRORS,
    RECEIVES, SLOW, SLOW_LOST, UNSTEERED, WRITES, WRITTEN_OCTETS, WRITTEN_PACKETS,
};
use crate::device::Device;
use crate::group::LinkKind;
use crate::join::{Joiner, Piece};
use crate::link::Link;
use crate::outer::{Front, LONGEST};
use crate::sys::{self, Arrival, Intake};
use crate::vnet::Vnet;

/// Octets in front of a message: for its headers, and for what BEET mode makes longer (`Receiver::decapsulate`).
const FRONT: usize = 128;
/// Octets in front of a datagram that opening it may write to.
const TOUCHED: usize = LONGEST + 16;
const STRIDE: usize = FRONT + 65536;
/// Messages of one call where each may be many datagrams.
const MESSAGES_OF_MANY: usize = 8;
/// Messages of one call where each is one.
const MESSAGES_OF_ONE: usize = 64;

/// A worker's own memory.
pub(crate) struct Inward<'a> {
    shared: &'a Shared,
    link: &'a Link,
    device: &'a Device,
    intake: Intake,
    /// Messages, a stride each; behind them what had to be copied.
    buf: Vec<u8>,
    messages: usize,
    joiner: Joiner,
    alone: Vec<Piece>,
    counts: [u64; ALL],
}

impl<'a> Inward<'a> {
    /// Makes a worker for one link.
    pub(crate) fn new(shared: &'a Shared, link: &'a Link, device: &'a Device) -> Self {
        let messages = if link.has_coalescing() { MESSAGES_OF_MANY } else { MESSAGES_OF_ONE };
        Self {
            shared,
            link,
            device,
            intake: Intake::new(messages),
            buf: vec![0; messages * STRIDE],
            messages,
            joiner: Joiner::new(device.takes_udp_segments()),
            alone: Vec::new(),
            counts: [0; ALL],
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let stop = self.shared.stop_inward();
        loop {
            let is_dry = match self.pass_on() {
                Ok(messages) => messages < self.messages,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                Err(_) => {
                    // An ICMP error is told once; what stays is no reason to keep a core busy.
                    self.counts[RECEIVE_ERRORS] += 1;
                    sys::wait(None, stop, 1)?;
                    true
                }
            };
            self.shared.inward.add(&mut self.counts);
            if self.shared.is_stopped() {
                return Ok(());
            }
            if is_dry {
                let ready = sys::wait(Some(self.link.fd()), stop, -1)?;
                if ready.stop {
                    return Ok(());
                }
                if ready.error && !ready.input {
                    // An ICMP error waits in the socket's error queue for whoever reads that.
                    sys::wait(None, stop, 5)?;
                }
            }
        }
    }

    /// Works until nothing waits.
    pub(crate) fn drain(&mut self) {
        while self.pass_on().is_ok() {
            self.shared.inward.add(&mut self.counts);
        }
    }

    /// Receives, opens and writes once; returns how many messages came.
    fn pass_on(&mut self) -> io::Result<usize> {
        let room = self.buf.get_mut(..self.messages * STRIDE).unwrap_or_default();
        let messages = self.intake.receive(self.link.fd(), room, STRIDE, FRONT)?;
        self.open(messages);
        self.write();
        self.counts[RECEIVES] += messages as u64;
        self.counts[BATCHES] += 1;
        Ok(messages)
    }

    /// Opens all datagrams of the messages, in place, all of them under one lock.
    fn open(&mut self, messages: usize) {
        let shared = self.shared;
        self.buf.truncate(self.messages * STRIDE);
        match &shared.carrier {
            Carrier::Psp(gateway) => drop(self.open_with(&mut *gateway.receiver(), messages, None)),
            Carrier::Sas(engine) if engine.shards() == 1 => {
                engine.with_receiver(0, |receiver| drop(self.open_with(receiver, messages, None)));
            }
            Carrier::Sas(engine) => {
                let own = self.link.shard().unwrap_or_default();
                let part = |shard| Some(Part { shard, shards: engine.shards() });
                let others = engine.with_receiver(own, |receiver| self.open_with(receiver, messages, part(own)));
                // The kernel steers; these came while it did not yet, or by a raw socket.
                for shard in others {
                    let _ = engine.with_receiver(shard, |receiver| self.open_with(receiver, messages, part(shard)));
                }
            }
        }
    }

    /// Opens all datagrams, or those that are for one shard; returns for which shards the others are.
    fn open_with<R: Inbound>(&mut self, receiver: &mut R, messages: usize, part: Option<Part>) -> Vec<usize> {
        let mut others = Vec::new();
        let Self { shared, link, device, intake, buf, joiner, alone, counts, .. } = self;
        let now = sys::now();
        let mut opener = Opener { receiver, shared, buf, counts, now, tapped: shared.tap.is_open() };
        for index in 0..messages {
            let Some(arrival) = intake.arrival(index) else { continue };
            let at = index * STRIDE + FRONT;
            let Some(front) = front_of(link, &arrival).filter(|_| !arrival.is_truncated) else {
                if part.is_none_or(|part| Some(part.shard) == link.shard()) {
                    opener.counts[PACKETS] += 1;
                    opener.counts[OCTETS] += arrival.octets as u64;
                    opener.counts[BAD_DATAGRAM] += 1;
                }
                continue;
            };
            let size = if arrival.told.segment == 0 { arrival.octets } else { arrival.told.segment };
            let (mut from, end) = (at, at + arrival.octets);
            loop {
                let datagram = Piece { at: from, len: size.min(end - from) };
                let elsewhere = part.and_then(|part| part.elsewhere(link, datagram.of(opener.buf)));
                if let Some(shard) = elsewhere {
                    if !others.contains(&shard) {
                        others.push(shard);
                    }
                    opener.counts[UNSTEERED] += u64::from(part.is_some_and(|part| Some(part.shard) == link.shard()));
                } else if let Some(packet) = opener.open(front.as_ref(), datagram, from == at) {
                    if device.takes_segments() {
                        joiner.push(opener.buf, packet);
                    } else {
                        alone.push(packet);
                    }
                }
                from += size.max(1);
                if from >= end {
                    break;
                }
            }
        }
        others
    }

    /// Writes what has been opened to the device.
    fn write(&mut self) {
        let Self { device, buf, joiner, alone, counts, .. } = self;
        for packet in alone.drain(..) {
            let written = device.write(Vnet::default(), &[], buf, &[packet]);
            count_written(counts, written, 1, packet.len);
        }
        joiner.drain(|joined| {
            let (packets, octets) = (joined.count(), joined.octets());
            let (vnet, head, pieces) = joined.finish();
            count_written(counts, device.write(vnet, head, buf, pieces), packets, octets);
        });
    }
}

/// One shard of so many.
#[derive(Clone, Copy)]
struct Part {
    shard: usize,
    shards: usize,
}

impl Part {
    /// Returns another shard that a link's datagram is for, none if it is for this one.
    fn elsewhere(self, link: &Link, datagram: &[u8]) -> Option<usize> {
        let kind = link.end().kind;
        let shard = match kind {
            LinkKind::Raw4 => steering::shard_of(datagram, self.shards),
            LinkKind::Raw6 => steering::shard_of_body(link.end().port as u8, datagram, self.shards),
            LinkKind::Udp4 | LinkKind::Udp6 => steering::shard_of_datagram(datagram, self.shards),
        };
        (shard != self.shard).then_some(shard)
    }
}

/// The headers that the socket has taken off a message; inner none: it has left them. None: it can't be told.
fn front_of(link: &Link, arrival: &Arrival) -> Option<Option<Front>> {
    let end = link.end();
    if end.kind == LinkKind::Raw4 {
        return Some(None);
    }
    let (source, told) = (arrival.source?, &arrival.told);
    let destination = told.destination.unwrap_or(end.local);
    if end.kind == LinkKind::Raw6 {
        let protocol = u8::try_from(end.port).ok()?;
        return Front::ip(source.ip(), destination, protocol, told.traffic_class, told.hop_limit).map(Some);
    }
    Front::udp(source, SocketAddr::new(destination, end.port), told.traffic_class, told.hop_limit).map(Some)
}

struct Opener<'a, R> {
    receiver: &'a mut R,
    shared: &'a Shared,
    buf: &'a mut Vec<u8>,
    counts: &'a mut [u64; ALL],
    now: u64,
    tapped: bool,
}

impl<R: Inbound> Opener<'_, R> {
    /// Opens one datagram in place. is_first: nothing that is still needed stands before it.
    fn open(&mut self, front: Option<&Front>, datagram: Piece, is_first: bool) -> Option<Piece> {
        let header = front.map_or(0, Front::octets);
        let (start, len) = (datagram.at - header, header + datagram.len);
        self.counts[PACKETS] += 1;
        self.counts[OCTETS] += len as u64;
        let before = datagram.at - TOUCHED..datagram.at;
        let saved: [u8; TOUCHED] = *self.buf.get(before.clone())?.first_chunk()?;
        let opened = self.open_with(front, datagram, start, len);
        if is_first {
            return opened;
        }
        let opened = opened.map(|packet| if packet.at < datagram.at { self.copy(packet) } else { packet });
        // The end of the datagram before this one, whose packet is not written yet.
        self.buf.get_mut(before)?.copy_from_slice(&saved);
        opened
    }

    fn open_with(&mut self, front: Option<&Front>, datagram: Piece, start: usize, len: usize) -> Option<Piece> {
        if let Some(front) = front {
            let place = self.buf.get_mut(start..datagram.at).unwrap_or_default();
            if !front.write(place, datagram.len) {
                self.counts[BAD_DATAGRAM] += 1;
                return None;
            }
            // IKE, or another protocol that shares the port (RFC 3948 §2.2): the engine counts what it is given.
            if front.is_udp() && datagram.of(self.buf).starts_with(&[0; 4]) {
                let packet = self.buf.get(start..start + len).unwrap_or_default();
                let taken = self.shared.slow.push(Way::Inbound, packet);
                self.counts[if taken { SLOW } else { SLOW_LOST }] += 1;
                return None;
            }
        }
        let outer = if self.tapped { self.buf.get(start..start + len).map(<[u8]>::to_vec) } else { None };
        let opened = self.receiver.decapsulate(self.buf, Piece { at: start, len }, self.now);
        if let Some(outer) = outer {
            self.shared.tap.see(self.now, Way::Inbound, false, &outer, opened.err());
        }
        match opened {
            Ok(packet) => {
                if self.tapped {
                    self.shared.tap.see(self.now, Way::Inbound, true, packet.of(self.buf), None);
                }
                Some(packet)
            }
            Err(_) => {
                self.counts[BY_ENGINE] += 1;
                None
            }
        }
    }

    /// Puts a packet behind all messages.
    fn copy(&mut self, packet: Piece) -> Piece {
        let at = self.buf.len();
        self.buf.extend_from_within(packet.at..packet.at + packet.len);
        Piece { at, len: packet.len }
    }
}

fn count_written(counts: &mut [u64; ALL], written: io::Result<()>, packets: usize, octets: usize) {
    match written {
        Ok(()) => {
            counts[WRITTEN_PACKETS] += packets as u64;
            counts[WRITTEN_OCTETS] += octets as u64;
            counts[WRITES] += 1;
        }
        Err(error) => counts[loss_of(&error)] += packets as u64,
    }
}

/// The counter of a packet that the device did not take.
pub(crate) fn loss_of(error: &io::Error) -> usize {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DEVICE_FULL,
        Some(libc::EIO | libc::ENETDOWN | libc::ENXIO) => DEVICE_DOWN,
        _ => DEVICE_REFUSED,
    }
}
