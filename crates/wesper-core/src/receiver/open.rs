//! A packet's way in (RFC 4303 §3.4): in place, the usual case in one straight line.

use super::outcome::About;
use super::{Hot, Opened, Receiver, Settings, Shape, Store, Usual};
use crate::aead::{OpenError, prefetch};
use crate::batch::{GROUP, Job, Output, Results, packet};
use crate::esp::{self, Input, Numbers, USUAL_FRONT};
use crate::events::{Event, EventKind, EventQueue};
use crate::ip::{self, Datagram, IPV4_HEADER, IPV6_HEADER, number};
use crate::modes::{self, Arrived, Payload};
use crate::profile::SECOND;
use crate::protocol::Protocol;
use crate::replay::infer_esn;
use crate::udp;
use crate::verdict::DropReason;

/// A protected packet's place in what was received, and what can be read without a key.
#[derive(Clone, Copy)]
struct Located {
    spi: u32,
    low: u32,
    /// From the protocol's first octet to its last, counted from the IP header's first.
    at: usize,
    end: usize,
    /// Source port, if it came in UDP.
    port: Option<u16>,
}

/// What is read of a packet before its turn.
#[derive(Clone, Copy)]
struct Read {
    input: Input,
    /// The number that it is taken for, unless packets before it change that.
    sequence: u64,
    iv: u64,
    /// Of the hot state; 0: not a usual packet.
    number: u32,
    spi: u32,
    low: u32,
    /// Octets of the packet; then those of the ciphertext.
    octets: u16,
    icv: u8,
    traffic_class: u8,
}

impl Read {
    const NONE: Self = Self {
        input: Input::EMPTY,
        sequence: 0,
        iv: 0,
        number: 0,
        spi: 0,
        low: 0,
        octets: 0,
        icv: 0,
        traffic_class: 0,
    };
}

/// Half of the 32-bit sequence numbers.
const HALF_SPACE: u64 = 1 << 31;

/// Octets in front of the usual packet's ciphertext.
const FRONT: usize = IPV4_HEADER + USUAL_FRONT;

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
        Ok(Opened { start: job.start, len: job.len, sa: job.sa, sequence: job.sequence })
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
    fn fetch_state(&self, number: u32) {
        if let Some(hot) = self.hots.get(number) {
            prefetch(&hot.life);
            prefetch(&hot.spi);
        }
    }

    /// Starts to bring near what opening a packet of a hot SA needs besides its state.
    #[inline(always)]
    fn fetch(&self, number: u32) {
        if let Some(hot) = self.hots.get(number) {
            self.store.contexts.prefetch(hot.context_slot);
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
        // Octets in front of the inner packet, as the last packet had them: with them in place already, it need not move.
        let mut front = 0;
        for first in (0..packets).step_by(GROUP) {
            let group = first..packets.min(first + GROUP);
            for index in group.clone() {
                self.fetch_state(self.index.get(likely_spi(packet(data, offsets, index))));
            }
            for index in group {
                let packet = packet(data, offsets, index);
                match self.open_at_end(packet, &mut results.output, &mut front, now) {
                    Ok(Job { len, sa, sequence, .. }) => results.delivered(len, sa, sequence),
                    Err(reason) => results.dropped(reason),
                }
            }
        }
        results
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

    /// Reads the header of the usual packet, before its turn; of another, at most whose it probably is.
    ///
    /// Usual: ESP right behind an IPv4 header without options, SAs found by SPI alone, tunnel mode without selectors,
    /// a suite whose IV is the sequence number, the key expanded, no limit of time near, the number fresh. With
    /// [`Self::read_state`] and [`Self::open_read`] this does what [`Self::open_datagram`] does.
    #[inline(always)]
    fn read_header(&self, buf: &[u8], job: &Job, read: &mut Read) {
        read.number = 0;
        let received = buf.get(job.start..).and_then(|rest| rest.get(..job.len)).unwrap_or_default();
        let Some(head) = received.first_chunk::<FRONT>() else { return };
        let octets = u16::from_be_bytes([head[2], head[3]]);
        let is_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
        if (head[0] != 0x45) | (head[9] != esp::IP_PROTOCOL) | is_fragment | (usize::from(octets) > received.len()) {
            return self.fetch_state(self.index.get(unlikely_spi(received)));
        }
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *head;
        read.spi = u32::from_be_bytes([a, b, c, d]);
        read.low = u32::from_be_bytes([e, f, g, h]);
        read.iv = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        (read.octets, read.traffic_class) = (octets, head[1]);
        read.number = self.index.get(read.spi);
    }

    /// Reads of a SA's state what can be known before the packet's turn; one that turns out not to be usual is no
    /// longer taken for such.
    #[inline(always)]
    fn read_state(&self, read: &mut Read) {
        if self.try_read_state(read).is_none() {
            read.number = 0;
        }
    }

    #[inline(always)]
    fn try_read_state(&self, read: &mut Read) -> Option<()> {
        let hot = self.hots.get(read.number)?;
        let usual = self.profiles.shape(hot.profile)?.usual.as_ref()?;
        let body = usize::from(read.octets).checked_sub(FRONT + usual.icv)?;
        if (hot.id != u64::from(read.spi)) | !self.by_addresses.is_empty() | (body < 8) | (body & 3 != 0) {
            return None;
        }
        read.sequence = hot.full(usual.esn, usual.inference_window, read.low)?;
        let numbers = Numbers { spi: read.spi, sequence: read.sequence, salt: hot.salt };
        read.input = usual.form.usual_input(numbers, read.iv);
        (read.octets, read.icv) = (body as u16, usual.icv as u8);
        Some(())
    }

    /// Opens what has been read; none, and nothing done, if it is not usual after all.
    #[inline(always)]
    fn open_read(
        &mut self,
        buf: &mut [u8],
        job: &mut Job,
        read: &mut Read,
        now: u64,
    ) -> Option<Result<(), DropReason>> {
        let number = read.number;
        let hot = self.hots.get_mut(number)?;
        let received = buf.get_mut(job.start..)?.get_mut(..FRONT + usize::from(read.octets) + usize::from(read.icv))?;
        // A number that is no more than half of the 32-bit ones ahead is inferred as itself, and fresh.
        if read.sequence.wrapping_sub(hot.top).wrapping_sub(1) >= HALF_SPACE {
            hot.read_again(self.profiles.shape(hot.profile)?.usual.as_ref()?, read)?;
        }
        let sequence = read.sequence;
        let (body, icv) = received.get_mut(FRONT..)?.split_at_mut_checked(read.octets.into())?;
        let is_simple = !hot.life.is_due(now) & (hot.failures_in_a_row < self.settings.simple_failures);
        let context = self.store.contexts.get(hot.context_slot, number).filter(|_| is_simple)?;
        if read.input.open(context, body, icv).is_err() {
            hot.failed();
            let about = About { sa: Some(hot.id), spi: hot.spi, low: read.low };
            return Some(Err(self.outcome.refuse(DropReason::Auth, about, received, 0, now)));
        }
        hot.failures_in_a_row = 0;
        match &mut hot.window {
            Some(window) => window.mark(&mut hot.top, sequence),
            None => hot.top = hot.top.max(sequence),
        }
        (job.sa, job.sequence) = (hot.id, sequence);
        let shape = self.profiles.shape(hot.profile)?;
        let (next_header, payload) =
            esp::usual_trailer(body).unwrap_or_else(|| esp::trailer(body, shape.check_padding));
        if hot.life.account(payload.unwrap_or(0), now) {
            self.any_expired |= hot.look(shape, now, &mut self.outcome.events);
        }
        let Some(inner) = payload.and_then(|payload| body.get_mut(..payload)) else {
            return Some(Err(self.outcome.drop(DropReason::BadPadding)));
        };
        let arrived = Arrived { traffic_class: read.traffic_class, take_dscp: shape.take_dscp };
        Some(self.outcome.release_tunnel(arrived, job.sa, next_header, inner, now).map(|len| {
            (job.start, job.len) = (job.start + FRONT, len);
        }))
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
        let Located { spi, low, at, end, port } = match self.locate(&datagram, received) {
            Ok(located) => located,
            Err(reason) => {
                return Err(self.outcome.refuse(reason, About::default(), received, datagram.flow_label, now));
            }
        };
        let mut about = About { sa: None, spi, low };
        let Some(number) = self.number(spi, received) else {
            return Err(self.outcome.refuse(DropReason::NoSa, about, received, datagram.flow_label, now));
        };
        let Some(hot) = self.hots.get_mut(number) else { return Err(self.outcome.drop(DropReason::NoSa)) };
        let Some(shape) = self.profiles.shape(hot.profile) else { return Err(self.outcome.drop(DropReason::NoSa)) };
        about.sa = Some(hot.id);
        if port.is_some() != shape.in_udp {
            return Err(self.outcome.drop(DropReason::EncapMismatch));
        }
        let is_due = hot.life.is_due(now);
        if is_due && hot.is_expired(shape, now, &mut self.outcome.events) {
            self.any_expired = true;
            return Err(self.outcome.drop(DropReason::Expired));
        }
        let Some(body) = received.get_mut(at..end).filter(|body| shape.form.fits(body.len())) else {
            return Err(self.outcome.drop(DropReason::Truncated));
        };
        // §3.4.3: verify the window before, update it after the ICV.
        let Some(mut sequence) = hot.fresh(shape.form.esn(), shape.inference_window, low) else {
            hot.replays += 1;
            return Err(self.outcome.refuse(DropReason::Replay, about, received, datagram.flow_label, now));
        };
        let spare = self.settings.spare(hot, shape, body, now);
        if self.store.open(number, hot, shape, sequence, body).is_err() {
            hot.failed();
            let tries = self.settings.resync_tries;
            let found = spare.and_then(|spare| self.store.resynchronise(number, hot, shape, body, &spare, tries, now));
            let Some(found) = found else {
                return Err(self.outcome.refuse(DropReason::Auth, about, received, datagram.flow_label, now));
            };
            sequence = found;
            hot.integrity_failed -= 1;
            let event = Event::of(EventKind::Resynchronised, now, hot.id);
            self.outcome.events.tell(Event { sequence: low, ..event });
        }
        let (next_header, payload) = esp::trailer(shape.form.plaintext(body), shape.check_padding);
        let is_newest = hot.accept(sequence);
        if hot.life.account(payload.unwrap_or(0), now) | is_due {
            self.any_expired |= hot.look(shape, now, &mut self.outcome.events);
        }
        if let Some(port) = port.filter(|_| is_newest) {
            hot.follow_peer(shape, received, port, now, &mut self.outcome.events);
        }
        let Some(payload) = payload else { return Err(self.outcome.drop(DropReason::BadPadding)) };
        (job.sa, job.sequence) = (hot.id, sequence);
        let inner_at = at + shape.form.front_octets();
        let inside = Payload {
            next_header,
            at: start + inner_at,
            octets: payload,
            start,
            head: datagram.upper.at,
            link: datagram.upper.link,
        };
        (job.start, job.len) = self.outcome.release(shape, &datagram, buf, inside, about, now)?;
        Ok(())
    }

    /// Finds the protocol, its octets and its header.
    #[inline(always)]
    fn locate(&self, datagram: &Datagram, received: &[u8]) -> Result<Located, DropReason> {
        let (mut at, mut end, mut port) = (datagram.upper.at, datagram.octets, None);
        if datagram.upper.protocol == number::UDP {
            let body = received.get(at..end).unwrap_or_default();
            if datagram.offset == 0 {
                let (source, destination) = udp::ports(body).ok_or(DropReason::NotForUs)?;
                if !self.ports.iter().any(|(known, _)| *known == destination) {
                    return Err(DropReason::NotForUs);
                }
                port = Some(source);
            }
            if datagram.fragment {
                return Err(DropReason::Fragment);
            }
            end = at + udp::content(body)?;
            at += udp::HEADER;
        } else {
            Protocol::by_ip_protocol(datagram.upper.protocol).ok_or(DropReason::NotForUs)?;
            if datagram.fragment {
                return Err(DropReason::Fragment);
            }
        }
        let body = received.get(at..end).unwrap_or_default();
        let (spi, low) = esp::locate(body).ok_or(DropReason::TruncatedHeader)?;
        Ok(Located { spi, low, at, end, port })
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
        let whose = self.whose(&shape.profile);
        self.life.is_expired(&whose, now, events)
    }

    /// Looks at the limits, one of which may be reached; returns whether the hard lifetime is over.
    #[cold]
    fn look(&mut self, shape: &Shape, now: u64, events: &mut EventQueue) -> bool {
        let whose = self.whose(&shape.profile);
        self.life.look(&whose, u64::MAX, now, events);
        self.life.expired
    }

    /// Returns the full number of a received low half, none if there is none.
    #[inline(always)]
    fn full(&self, esn: bool, inference_window: u32, low: u32) -> Option<u64> {
        if esn { infer_esn(self.top, inference_window, low) } else { Some(low.into()) }
    }

    /// The same, none also if it is not fresh.
    #[inline(always)]
    fn fresh(&self, esn: bool, inference_window: u32, low: u32) -> Option<u64> {
        let sequence = self.full(esn, inference_window, low)?;
        let window = self.window.as_ref();
        window.is_none_or(|window| window.check(self.top, sequence).is_fresh()).then_some(sequence)
    }

    /// Does over what was read of a packet that is not simply the next, as others may have come in between; none if it
    /// is not fresh.
    #[inline(never)]
    fn read_again(&self, usual: &Usual, read: &mut Read) -> Option<()> {
        read.sequence = self.fresh(usual.esn, usual.inference_window, read.low)?;
        let numbers = Numbers { spi: self.spi, sequence: read.sequence, salt: self.salt };
        read.input = usual.form.usual_input(numbers, read.iv);
        Some(())
    }

    #[cold]
    fn failed(&mut self) {
        self.integrity_failed += 1;
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
    }

    /// Notes an authentic number; returns whether it is the newest of a replay-protected SA.
    #[inline(always)]
    fn accept(&mut self, sequence: u64) -> bool {
        self.failures_in_a_row = 0;
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
    fn follow_peer(&mut self, shape: &Shape, received: &[u8], port: u16, now: u64, events: &mut EventQueue) {
        let Some((source, _)) = ip::addresses(received) else { return };
        let at = (source, port);
        let (outer, encapsulation) = (shape.profile.outer, shape.profile.encapsulation);
        let told = outer.zip(encapsulation).map(|(outer, udp)| (outer.remote, udp.remote_port));
        let expected = self.peer.as_deref().copied().or(told);
        if expected == Some(at) {
            return;
        }
        self.peer = Some(Box::new(at));
        if expected.is_some() {
            let event = Event::of(EventKind::PeerMoved, now, self.id);
            events.tell(Event { address: Some(source), port, ..event });
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
        body: &mut [u8],
    ) -> Result<(), OpenError> {
        let context = match self.contexts.get(hot.context_slot, number) {
            Some(context) => context,
            None => {
                hot.context_slot = self.expand(number, hot.id, shape).ok_or(OpenError)?;
                self.contexts.get(hot.context_slot, number).ok_or(OpenError)?
            }
        };
        shape.form.open(context, Numbers { spi: hot.spi, sequence, salt: hot.salt }, body)
    }

    /// Looks for the high half further on, after many failures in a row (RFC 4303 appendix A3).
    #[cold]
    #[allow(clippy::too_many_arguments, reason = "it is the end of one way through a packet")]
    fn resynchronise(
        &mut self,
        number: u32,
        hot: &mut Hot,
        shape: &Shape,
        body: &mut [u8],
        spare: &[u8],
        tries: u32,
        now: u64,
    ) -> Option<u64> {
        hot.resync_second = now / SECOND + 1;
        let (_, low) = esp::locate(spare)?;
        let high = (hot.top >> 32) + 1;
        (high..=u32::MAX.into()).take(tries as usize).map(|high| high << 32 | u64::from(low)).find(|candidate| {
            body.copy_from_slice(spare);
            self.open(number, hot, shape, *candidate, body).is_ok()
        })
    }
}

/// Returns the SPI of a packet of the usual form; that of another may be anything.
#[inline(always)]
fn likely_spi(packet: &[u8]) -> u32 {
    let Some(head) = packet.first_chunk::<24>() else { return 0 };
    if (head[0] != 0x45) | (head[9] != esp::IP_PROTOCOL) {
        return unlikely_spi(packet);
    }
    u32::from_be_bytes([head[20], head[21], head[22], head[23]])
}

/// The same for options, IPv6 without extension headers, and UDP.
#[inline(never)]
fn unlikely_spi(packet: &[u8]) -> u32 {
    let (at, protocol) = match packet.first_chunk::<IPV4_HEADER>() {
        Some(head) if head[0] >> 4 == 4 => (4 * usize::from(head[0] & 15), head[9]),
        Some(head) => (IPV6_HEADER, head[6]),
        None => return 0,
    };
    let at = at + if protocol == number::UDP { udp::HEADER } else { 0 };
    let spi = packet.get(at..at + 4).and_then(|octets| octets.first_chunk::<4>());
    spi.map_or(0, |octets| u32::from_be_bytes(*octets))
}
