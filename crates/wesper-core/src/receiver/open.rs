//! A packet's way in (RFC 4303 §3.4): in place, the usual one in a straight line of its own.

use std::ops::Range;

use super::demultiplexer::Sorted;
use super::outcome::{About, Told, quoted};
use super::shape::Shape;
use super::usual::{Read, likely_spi};
use super::{Hot, Opened, Receiver, Settings, Store};
use crate::aead::{OpenError, prefetch};
use crate::batch::{GROUP, Job, Output, Results, packet};
use crate::derived::{Derived, derive};
use crate::esp::Numbers;
use crate::events::{Event, EventKind, EventQueue};
use crate::form::{Arrived, KeyOf, Numbering};
use crate::hot::Extra;
use crate::ip::{self, Datagram};
use crate::modes::{self, Payload};
use crate::profile::SECOND;
use crate::replay::infer_esn;
use crate::verdict::DropReason;

/// Keys are brought near so many packets before they are needed.
const AHEAD: usize = 2;

/// Octets that a batch's packet may be laid over the one before it: IPv6, UDP and ESP headers and an IV.
const LAID_OVER: usize = 64;
/// Octets before a batch's packet that opening it may write to: BEET's longer header takes some more.
const KEPT: usize = LAID_OVER + 16;

impl Receiver {
    /// Opens one packet in place.
    ///
    /// buf: the packet stands at `start..start + len` from its IP header, reassembled; for BEET mode from IPv4 to
    /// IPv6, 12 octets before it must be free. On a drop what it holds is of no use, but for NotForUs, which leaves it
    /// as it was. Drops: all inbound reasons but InNoPolicy and InDiscard.
    #[inline]
    pub fn decapsulate(&mut self, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Opened, DropReason> {
        let mut job = Job::new(0, start, len);
        self.open(buf, &mut job, now)?;
        Ok(Opened { start: job.start, len: job.len, sa: job.sa, sequence: job.sequence, flow: job.flow })
    }

    /// Opens packets in place, in order; each job is told what became of it. They must not overlap.
    ///
    /// In passes over a group, so that what one packet waits for is on its way while others are worked on.
    pub fn decapsulate_batch(&mut self, jobs: &mut [Job], buf: &mut [u8], now: u64) {
        let mut read = [Read::NONE; GROUP];
        for jobs in jobs.chunks_mut(GROUP) {
            let mut last = 0;
            for (job, read) in jobs.iter().zip(&mut read) {
                self.read_header(buf, job, read);
                if read.number != last {
                    last = read.number;
                    self.fetch_state(last);
                }
            }
            for read in read.iter_mut().take(jobs.len()) {
                self.read_state(read);
            }
            let mut fetched = 0;
            for (index, job) in jobs.iter_mut().enumerate() {
                if let Some(next) = read.get(index + AHEAD).filter(|next| next.number != fetched) {
                    fetched = next.number;
                    self.fetch(fetched);
                }
                let done = read.get_mut(index).and_then(|read| self.open_read(buf, job, read, now));
                let done = done.unwrap_or_else(|| self.open_any(buf, job, now));
                job.end(done);
            }
        }
    }

    /// Starts to bring a hot state near.
    #[inline(always)]
    pub(super) fn fetch_state(&self, number: u32) {
        if let Some(hot) = self.hots.get(number) {
            prefetch(&hot.life);
            prefetch(&hot.spi);
        }
    }

    /// Starts to bring near what opening a packet of a hot SA needs besides its state.
    #[inline(always)]
    fn fetch(&self, number: u32) {
        if let Some(hot) = self.hots.get(number) {
            self.store.contexts.prefetch(hot.context_slot, self.store.provider);
            if let Some(word) = hot.window.as_ref().and_then(|window| window.word(hot.top.wrapping_add(1))) {
                prefetch(word);
            }
        }
    }

    /// Opens packets, in order, from one buffer into another: packet i is `data[offsets[i]..offsets[i + 1]]`.
    ///
    /// memory: what an earlier batch was written to, or an empty vector; the results take it over.
    pub fn decapsulate_many(&mut self, data: &[u8], offsets: &[u64], now: u64, memory: Vec<u8>) -> Results {
        let packets = offsets.len().saturating_sub(1);
        let mut results = Results::new(memory, packets, data.len() + 2 * modes::HEADROOM);
        self.decapsulate_more(data, offsets, 0..packets, now, &mut results);
        results
    }

    /// Opens some of these packets, in order, and adds what became of them to results.
    pub(crate) fn decapsulate_more(
        &mut self,
        data: &[u8],
        offsets: &[u64],
        packets: Range<usize>,
        now: u64,
        results: &mut Results,
    ) {
        // Octets in front of the inner packet, as the last packet had them: with them in place already, it need not move.
        let mut front = 0;
        for first in packets.clone().step_by(GROUP) {
            let group = first..packets.end.min(first + GROUP);
            for index in group.clone() {
                self.fetch_state(self.index.get(likely_spi(packet(data, offsets, index))));
            }
            for index in group {
                let packet = packet(data, offsets, index);
                match self.open_at_end(packet, &mut results.output, &mut front, now) {
                    Ok(Job { len, sa, sequence, flow, .. }) => results.delivered(len, sa, sequence, flow),
                    Err(reason) => results.dropped(reason),
                }
            }
        }
    }

    /// Opens a packet at an output's end.
    ///
    /// The packet is laid over the last octets of what is there, so that what is inside need not be moved. They, and
    /// those in front of them that a longer header may take, come back afterwards.
    #[inline(always)]
    fn open_at_end(
        &mut self,
        packet: &[u8],
        output: &mut Output,
        front: &mut usize,
        now: u64,
    ) -> Result<Job, DropReason> {
        let end = output.end();
        let start = end - (*front).min(LAID_OVER);
        let buf = output.room(end + packet.len() + modes::HEADROOM);
        let kept = *buf.get(..end).and_then(<[u8]>::last_chunk::<KEPT>).expect("so much is always before the end");
        if let Some(place) = buf.get_mut(start..start + packet.len()) {
            place.copy_from_slice(packet);
        }
        let mut job = Job::new(0, start, packet.len());
        let done = self.open(buf, &mut job, now);
        if done.is_ok() {
            *front = job.start.saturating_sub(start);
            if job.start != end {
                buf.copy_within(job.start..job.start + job.len, end);
            }
        }
        if let Some(place) = buf.get_mut(end - KEPT..end) {
            place.copy_from_slice(&kept);
        }
        done.map(|()| job)
    }

    #[inline(always)]
    fn open(&mut self, buf: &mut [u8], job: &mut Job, now: u64) -> Result<(), DropReason> {
        let mut read = Read::NONE;
        self.read_header(buf, job, &mut read);
        self.read_state(&mut read);
        match self.open_read(buf, job, &mut read, now) {
            Some(done) => done,
            None => self.open_any(buf, job, now),
        }
    }

    /// Opens any packet.
    #[inline(never)]
    pub(super) fn open_any(&mut self, buf: &mut [u8], job: &mut Job, now: u64) -> Result<(), DropReason> {
        match buf.get(job.start..job.start.saturating_add(job.len)).and_then(ip::parse) {
            Some(datagram) => self.open_datagram(buf, job, datagram, now),
            None => Err(self.outcome.drop(DropReason::BadIp)),
        }
    }

    fn open_datagram(&mut self, buf: &mut [u8], job: &mut Job, datagram: Datagram, now: u64) -> Result<(), DropReason> {
        let start = job.start;
        let Some(received) = buf.get_mut(start..start.saturating_add(job.len)) else {
            return Err(self.outcome.drop(DropReason::BadIp));
        };
        let label = datagram.flow_label;
        let located = self.demultiplexer.sort(&datagram, received).and_then(|sorted| {
            Ok((sorted, sorted.protocol.locate(received.get(sorted.at..sorted.end).unwrap_or_default())?))
        });
        let (Sorted { protocol, at, end, port }, located) = match located {
            Ok(located) => located,
            Err(reason) => return Err(self.outcome.refuse(reason, About::default(), received, label, now)),
        };
        let mut about = About { sa: None, spi: located.spi, low: located.low, session: located.flow };
        let Some(number) = self.number(located.spi, received) else {
            return Err(self.outcome.refuse(DropReason::NoSa, about, received, label, now));
        };
        let Some(hot) = self.hots.get_mut(number) else { return Err(self.outcome.drop(DropReason::NoSa)) };
        let Some(shape) = self.profiles.shape(hot.profile) else { return Err(self.outcome.drop(DropReason::NoSa)) };
        if shape.profile.protocol != protocol {
            return Err(self.outcome.refuse(DropReason::NoSa, about, received, label, now));
        }
        about.sa = Some(hot.id);
        if port.is_some() != shape.in_udp {
            return Err(self.outcome.drop(DropReason::EncapMismatch));
        }
        let is_due = hot.life.is_due(now);
        if is_due && hot.is_expired(shape, now, &mut self.outcome.events) {
            self.any_expired = true;
            return Err(self.outcome.drop(DropReason::Expired));
        }
        let body = received.get(at..end).unwrap_or_default();
        let arrived = match shape.form.read(body, datagram.version, shape.in_udp) {
            Ok(arrived) => arrived,
            Err(reason) => return Err(self.outcome.refuse(reason, about, received, label, now)),
        };
        about.low = arrived.number as u32;
        // §3.4.3: verify the window before, update it after the ICV.
        let Some(mut sequence) = hot.fresh(shape, &arrived) else {
            hot.replays += 1;
            return Err(self.outcome.refuse(DropReason::Replay, about, received, label, now));
        };
        // Opening the packet will spoil what a message to its sender quotes.
        let quoted = if arrived.asks_for_message() { quoted(received.get(..datagram.octets)) } else { Vec::new() };
        let Some(body) = received.get_mut(at..end) else { return Err(self.outcome.drop(DropReason::BadIp)) };
        let spare = self.settings.spare(hot, shape, body, now);
        if self.store.open(number, hot, shape, sequence, &arrived, body).is_err() {
            hot.failed();
            let tries = self.settings.resync_tries;
            let found = spare
                .and_then(|spare| self.store.resynchronise(number, hot, shape, &arrived, body, &spare, tries, now));
            let Some(found) = found else {
                return Err(self.outcome.refuse(DropReason::Auth, about, received, label, now));
            };
            sequence = found;
            hot.integrity_failed -= 1;
            let event = Event::of(EventKind::Resynchronised, now, hot.id);
            self.outcome.events.tell(Event { sequence: about.low, ..event });
        }
        let content = shape.form.content(&arrived, body, shape.check_padding);
        let octets = content.map_or(0, |content| content.octets);
        let sub_sa = arrived.key.sub_sa();
        let is_newest = hot.accept(shape, sub_sa, sequence, octets);
        if hot.life.account(octets, now) | is_due {
            self.any_expired |= hot.look(shape, now, &mut self.outcome.events);
        }
        if let Some(port) = port.filter(|_| is_newest) {
            hot.follow_peer(shape, received, port, sub_sa, now, &mut self.outcome.events);
        }
        let content = match content {
            Ok(content) => content,
            Err(reason) => {
                let told = Told { arrived: &arrived, at, quoted };
                return Err(self.outcome.refuse_authentic(reason, told, about, received, &datagram, now));
            }
        };
        (job.sa, job.sequence, job.flow) = (hot.id, sequence, arrived.flow);
        let inside = Payload {
            next_header: content.next_header,
            at: start + at + content.at,
            octets,
            start,
            head: datagram.upper.at,
            link: datagram.upper.link,
        };
        (job.start, job.len) = self.outcome.release(shape, &datagram, buf, inside, about, now)?;
        Ok(())
    }

    /// Returns the number of the hot state that a packet is for, longest match first (RFC 4303 §3.4.2).
    #[inline(always)]
    fn number(&mut self, spi: u32, received: &[u8]) -> Option<u32> {
        if !self.by_addresses.is_empty()
            && let Some(id) = self.by_addresses(spi, received)
        {
            let number = self.store.row(id)?.hot;
            return if number != 0 { Some(number) } else { self.warm(id) };
        }
        let number = self.index.get(spi);
        if self.hots.get(number).is_some_and(|hot| hot.id == u64::from(spi)) {
            return Some(number);
        }
        self.number_from_table(spi)
    }

    #[inline(never)]
    fn number_from_table(&mut self, spi: u32) -> Option<u32> {
        let row = self.store.table.row(self.store.table.find(spi)?)?;
        let number = if row.hot != 0 { row.hot } else { self.warm(spi.into())? };
        self.index.put(spi, number);
        Some(number)
    }

    #[cold]
    fn by_addresses(&self, spi: u32, received: &[u8]) -> Option<u64> {
        let (source, destination) = ip::addresses(received)?;
        let exact = self.by_addresses.get(&(spi, destination, Some(source)));
        exact.or_else(|| self.by_addresses.get(&(spi, destination, None))).copied()
    }
}

impl Hot {
    /// Says whether the hard lifetime is over, and tells so the first time.
    #[cold]
    fn is_expired(&mut self, shape: &Shape, now: u64, events: &mut EventQueue) -> bool {
        let (life, whose) = self.life_of(&shape.profile);
        life.is_expired(&whose, now, events)
    }

    /// Looks at the limits, one of which may be reached; returns whether the hard lifetime is over.
    #[cold]
    pub(super) fn look(&mut self, shape: &Shape, now: u64, events: &mut EventQueue) -> bool {
        let (life, whose) = self.life_of(&shape.profile);
        life.look(&whose, u64::MAX, now, events);
        life.expired
    }

    /// Returns the full number of a received low half, none if there is none.
    #[inline(always)]
    pub(super) fn full(&self, esn: bool, inference_window: u32, low: u32) -> Option<u64> {
        if esn { infer_esn(self.top, inference_window, low) } else { Some(low.into()) }
    }

    /// Says whether the SA's own window takes a number.
    #[inline(always)]
    pub(super) fn is_fresh(&self, sequence: u64) -> bool {
        self.window.as_ref().is_none_or(|window| window.check(self.top, sequence).is_fresh())
    }

    /// Returns the full number of a packet, none if it can have none or is not fresh.
    #[inline(always)]
    fn fresh(&self, shape: &Shape, arrived: &Arrived) -> Option<u64> {
        let sequence = match shape.numbering {
            Numbering::Short => arrived.number,
            Numbering::Extended => infer_esn(self.top, shape.inference_window, arrived.number as u32)?,
            Numbering::Whole => Some(arrived.number).filter(|number| *number != 0)?,
            Numbering::None => return Some(0),
        };
        let is_fresh = match arrived.key.sub_sa() {
            None => self.is_fresh(sequence),
            Some(id) => self.is_fresh_in(shape, id, sequence),
        };
        is_fresh.then_some(sequence)
    }

    #[cold]
    pub(super) fn failed(&mut self) {
        self.integrity_failed += 1;
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
    }

    /// Notes an authentic packet; returns whether it is the newest of a replay-protected SA, or Sub SA.
    #[inline(always)]
    fn accept(&mut self, shape: &Shape, sub_sa: Option<u16>, sequence: u64, octets: usize) -> bool {
        self.failures_in_a_row = 0;
        if let Some(id) = sub_sa {
            return self.accept_in(shape, id, sequence, octets);
        }
        let is_newest = sequence > self.top;
        match &mut self.window {
            Some(window) => {
                window.accept(&mut self.top, sequence);
                is_newest
            }
            None => {
                self.top = self.top.max(sequence);
                false
            }
        }
    }

    /// RFC 7296 §2.23: only the newest packet of a replay-protected SA says where the peer is.
    #[inline(never)]
    fn follow_peer(
        &mut self,
        shape: &Shape,
        received: &[u8],
        port: u16,
        sub_sa: Option<u16>,
        now: u64,
        events: &mut EventQueue,
    ) {
        let Some((source, _)) = ip::addresses(received) else { return };
        let at = (source, port);
        let (outer, encapsulation) = (shape.profile.outer, shape.profile.encapsulation);
        let session = sub_sa.unwrap_or(0);
        let told = outer.zip(encapsulation).map(|(outer, udp)| {
            // draft-ietf-ipsecme-eesp-03 §6: a Sub SA's own port is learnt from its first authentic packet.
            let has_own_port = shape.form.source_port(session.into(), udp.remote_port) != udp.remote_port;
            (outer.remote, if has_own_port { port } else { udp.remote_port })
        });
        let peer = self.peer_of(sub_sa);
        let expected = peer.as_deref().copied().or(told);
        if sub_sa.is_none() && expected == Some(at) {
            return;
        }
        *peer = Some(Box::new(at));
        if expected.is_some_and(|expected| expected != at) {
            let event = Event::of(EventKind::PeerMoved, now, self.id);
            events.tell(Event { address: Some(source), port, session, ..event });
        }
    }
}

impl Settings {
    /// Returns a copy of a packet that may have to be opened again, as a failed attempt spoils it.
    #[inline(always)]
    fn spare(&self, hot: &mut Hot, shape: &Shape, body: &[u8], now: u64) -> Option<Vec<u8>> {
        if hot.failures_in_a_row < self.simple_failures || !shape.may_resynchronise {
            return None;
        }
        (hot.resync_second != now / SECOND + 1).then(|| body.to_vec())
    }
}

impl Store {
    #[inline(always)]
    fn open(
        &mut self,
        number: u32,
        hot: &mut Hot,
        shape: &Shape,
        sequence: u64,
        arrived: &Arrived,
        body: &mut [u8],
    ) -> Result<(), OpenError> {
        if arrived.key != KeyOf::Sa {
            return self.open_derived(number, hot, shape, sequence, arrived, body);
        }
        let context = match self.contexts.get(hot.context_slot, number) {
            Some(context) => context,
            None => {
                hot.context_slot = self.expand(number, hot.id, shape).ok_or(OpenError)?;
                self.contexts.get(hot.context_slot, number).ok_or(OpenError)?
            }
        };
        shape.form.open(context, Numbers { spi: hot.spi, sequence, salt: hot.salt }, arrived, body)
    }

    /// The same with a key that is derived, and kept if the ICV holds.
    #[inline(never)]
    fn open_derived(
        &mut self,
        number: u32,
        hot: &Hot,
        shape: &Shape,
        sequence: u64,
        arrived: &Arrived,
        body: &mut [u8],
    ) -> Result<(), OpenError> {
        let open = |derived: &Derived, body: &mut [u8]| {
            let numbers = Numbers { spi: hot.spi, sequence, salt: derived.salt };
            shape.form.open(&derived.context, numbers, arrived, body)
        };
        if let Some(derived) = self.derived.get(number, arrived.key) {
            return open(derived, body);
        }
        let root = self.extra(hot.id).map(Extra::key).ok_or(OpenError)?;
        let derived = derive(self.provider, &shape.profile, root, arrived.key).ok_or(OpenError)?;
        open(&derived, body)?;
        self.derived.insert(number, arrived.key, derived);
        Ok(())
    }

    /// Looks for the high half further on, after many failures in a row (RFC 4303 appendix A3).
    #[cold]
    #[allow(clippy::too_many_arguments, reason = "it is the end of one way through a packet")]
    fn resynchronise(
        &mut self,
        number: u32,
        hot: &mut Hot,
        shape: &Shape,
        arrived: &Arrived,
        body: &mut [u8],
        spare: &[u8],
        tries: u32,
        now: u64,
    ) -> Option<u64> {
        hot.resync_second = now / SECOND + 1;
        let high = (hot.top >> 32) + 1;
        (high..=u32::MAX.into()).take(tries as usize).map(|high| high << 32 | arrived.number).find(|candidate| {
            body.copy_from_slice(spare);
            self.open(number, hot, shape, *candidate, arrived, body).is_ok()
        })
    }
}
