//! A packet's way out (RFC 4303 §3.3): in place, the usual case in one straight line.

use std::hint::black_box;

use aes::cipher::BlockCipherEncrypt;

use super::{Dropped, HEADROOM, Hot, Sealed, Sender, Shape, Store, TAILROOM, expand};
use crate::batch::{GROUP, Ids, Job, Output, Results, packet};
use crate::esp::{Form, Input, Numbers};
use crate::events::{Event, EventKind, EventQueue};
use crate::ip::{self, IPV4_HEADER, IPV6_HEADER, number};
use crate::modes::{self, DF, Enclosed, Taken, outer_identification};
use crate::profile::UdpEncapsulation;
use crate::udp;
use crate::verdict::DropReason;

/// What sealing a packet needs that is neither in it nor in its job.
#[derive(Clone, Copy)]
struct Framed {
    input: Input,
    /// Where the expanded key is.
    slot: u32,
    /// Octets before and behind the ciphertext.
    front: u16,
    icv: u16,
}

impl Framed {
    const NONE: Self = Self { input: Input::EMPTY, slot: 0, front: 0, icv: 0 };
}

/// What a tunnel carries, and what its outer header takes from it.
#[derive(Clone, Copy)]
struct Inside {
    octets: usize,
    next_header: u8,
    taken: Taken,
    /// May grow by the profile's traffic-flow padding, or be cut after protection.
    is_packet: bool,
}

impl Inside {
    /// Reads the first header of a packet; none if it is not IP or its lengths contradict each other.
    #[inline(always)]
    fn of(packet: &[u8]) -> Option<Self> {
        let head = packet.first_chunk::<IPV4_HEADER>()?;
        let inside = if head[0] >> 4 == 4 {
            let octets = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let header = 4 * usize::from(head[0] & 15);
            if header < IPV4_HEADER || octets < header {
                return None;
            }
            let taken =
                Taken { traffic_class: head[1], df: u16::from_be_bytes([head[6], head[7]]) & DF, flow_label: 0 };
            Self { octets, next_header: number::IPV4, taken, is_packet: true }
        } else if head[0] >> 4 == 6 {
            let octets = IPV6_HEADER + usize::from(u16::from_be_bytes([head[4], head[5]]));
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let taken = Taken { traffic_class: (word >> 20) as u8, df: DF, flow_label: word & 0xf_ffff };
            Self { octets, next_header: number::IPV6, taken, is_packet: true }
        } else {
            return None;
        };
        (inside.octets <= packet.len()).then_some(inside)
    }

    /// A packet that the peer throws away (RFC 4303 §2.6).
    fn dummy(octets: usize) -> Self {
        Self { octets, next_header: number::NO_NEXT_HEADER, taken: Taken::default(), is_packet: false }
    }
}

impl Sender {
    /// Protects one packet with this SA, in place.
    ///
    /// buf: the packet stands at `start..start + len` from its IP header, TTL already decremented if this host
    /// forwards; [`HEADROOM`](super::HEADROOM) octets before it and [`TAILROOM`] after it, and after its padding
    /// to the profile's `pad_to`, must be free. On a drop what it holds is of no use.
    /// Drops: OutBadPacket, OutNoSa, OutExpired, OutMode, OutTooBig (also for lack of free octets), OutSequenceOverflow,
    /// OutNotReserved.
    #[inline]
    pub fn encapsulate(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        start: usize,
        len: usize,
        now: u64,
    ) -> Result<Sealed, Dropped> {
        self.encapsulate_padded(sa, buf, start, len, &[], now)
    }

    /// Protects one packet with octets appended, tunnel mode only; they need free room as well.
    #[inline]
    pub fn encapsulate_padded(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        start: usize,
        len: usize,
        tfc: &[u8],
        now: u64,
    ) -> Result<Sealed, Dropped> {
        let Some(number) = self.hot_number(sa) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let mut job = Job::new(sa, start, len);
        self.protect(number, buf, &mut job, tfc, now)?;
        Ok(Sealed { start: job.start, len: job.len, sequence: job.sequence })
    }

    /// Makes a packet that the peer throws away (RFC 4303 §2.6), tunnel mode only.
    ///
    /// buf: the payload, any octets, stands at `start..start + len`; free octets as in [`Self::encapsulate`].
    pub fn dummy(&mut self, sa: u64, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Sealed, Dropped> {
        let Some(number) = self.hot_number(sa) else { return Err(self.refuse(DropReason::OutNoSa)) };
        if buf.get(start..start.saturating_add(len)).is_none() {
            return Err(self.too_big(0));
        }
        let mut job = Job::new(sa, start, len);
        self.tunnel(number, buf, &mut job, Inside::dummy(len), &[], now)?;
        Ok(Sealed { start: job.start, len: job.len, sequence: job.sequence })
    }

    /// Protects packets in place, in order; each job is told what became of it. They must not overlap.
    ///
    /// In two passes over a group: what one packet writes around its payload would else hold up its own encryption,
    /// which reads it back, and with it the packets behind.
    pub fn encapsulate_batch(&mut self, jobs: &mut [Job], buf: &mut [u8], now: u64) {
        let mut framed = [Framed::NONE; GROUP];
        for jobs in jobs.chunks_mut(GROUP) {
            let mut numbers = [0; GROUP];
            self.look_up(jobs.iter().map(|job| job.sa), &mut numbers);
            let mut sealed = 0;
            for (index, number) in numbers.into_iter().enumerate() {
                let Some((before, [job, ..])) = jobs.split_at_mut_checked(index) else { break };
                let Some(place) = framed.get_mut(index) else { break };
                if self.frame_usual(number, buf, job, place, now).is_some() {
                    job.reason = None;
                    continue;
                }
                // What comes now may push keys out that those before still need.
                self.seal_framed(before, &framed, sealed, buf);
                sealed = index + 1;
                let done = if number == 0 {
                    Err(self.refuse(DropReason::OutNoSa))
                } else {
                    self.protect_any(number, buf, job, &[], now)
                };
                job.end(done.map_err(|dropped| dropped.reason));
            }
            self.seal_framed(jobs, &framed, sealed, buf);
        }
    }

    /// Seals the jobs from `first` on, which [`Self::frame_usual`] has framed.
    #[inline(always)]
    fn seal_framed(&mut self, jobs: &mut [Job], framed: &[Framed; GROUP], first: usize, buf: &mut [u8]) {
        for (job, framed) in jobs.iter_mut().zip(framed).skip(first) {
            if self.seal_usual(framed, job, buf).is_none() {
                // Lengths and keys of installed SAs fit, so it does not come to this.
                job.end(Err(self.refuse(DropReason::OutMode).reason));
            }
        }
    }

    /// Protects packets, in order, from one buffer into another: packet i is `data[offsets[i]..offsets[i + 1]]`.
    ///
    /// memory: what an earlier batch was written to, or an empty vector; the results take it over.
    pub fn encapsulate_many(
        &mut self,
        ids: Ids<'_>,
        data: &[u8],
        offsets: &[u64],
        now: u64,
        memory: Vec<u8>,
    ) -> Results {
        let packets = offsets.len().saturating_sub(1);
        let mut results = Results::new(memory, packets, data.len() + packets * TAILROOM + HEADROOM);
        let mut numbers = [0; GROUP];
        for first in (0..packets).step_by(GROUP) {
            let group = first..packets.min(first + GROUP);
            self.look_up(group.clone().map(|index| ids.get(index)), &mut numbers);
            for (index, number) in group.zip(numbers) {
                match self.protect_at_end(number, packet(data, offsets, index), &mut results.output, now) {
                    Ok((octets, sequence)) => results.delivered(octets, ids.get(index), sequence),
                    Err(dropped) => results.dropped(dropped.reason),
                }
            }
        }
        results
    }

    /// Protects a packet at an output's end, and returns its octets and number.
    #[inline(always)]
    fn protect_at_end(
        &mut self,
        number: u32,
        packet: &[u8],
        output: &mut Output,
        now: u64,
    ) -> Result<(usize, u64), Dropped> {
        let Some(shape) = self.hots.get(number).and_then(|hot| self.profiles.shape(hot.profile)) else {
            return Err(self.refuse(DropReason::OutNoSa));
        };
        let (end, start) = (output.end(), output.end() + shape.tunnel_front());
        let padding = shape.pad_to.saturating_sub(packet.len());
        let buf = output.room(start + packet.len() + padding + TAILROOM);
        if let Some(place) = buf.get_mut(start..start + packet.len()) {
            place.copy_from_slice(packet);
        }
        let mut job = Job::new(0, start, packet.len());
        self.protect(number, buf, &mut job, &[], now)?;
        if job.start != end {
            buf.copy_within(job.start..job.start + job.len, end);
        }
        Ok((job.len, job.sequence))
    }

    /// Finds the hot states of a group and reads of each what its packets will need, so that the misses overlap.
    fn look_up(&mut self, sas: impl Iterator<Item = u64>, numbers: &mut [u32; GROUP]) {
        let (mut last, mut found, mut read) = (0, 0, 0);
        for (number, sa) in numbers.iter_mut().zip(sas) {
            if sa != last {
                (last, found) = (sa, self.hot_number(sa).unwrap_or(0));
                read ^= self.hots.get(found).map_or(0, |hot| hot.context_slot ^ hot.room);
            }
            *number = found;
        }
        black_box(read);
    }

    #[inline(always)]
    fn protect(&mut self, number: u32, buf: &mut [u8], job: &mut Job, tfc: &[u8], now: u64) -> Result<(), Dropped> {
        let done = if tfc.is_empty() { self.protect_usual(number, buf, job, now) } else { None };
        match done {
            Some(()) => Ok(()),
            None => self.protect_any(number, buf, job, tfc, now),
        }
    }

    /// The usual packet, and nothing that needs a decision: none, and nothing done, if it is not.
    #[inline(always)]
    fn protect_usual(&mut self, number: u32, buf: &mut [u8], job: &mut Job, now: u64) -> Option<()> {
        let mut framed = Framed::NONE;
        self.frame_usual(number, buf, job, &mut framed, now)?;
        self.seal_usual(&framed, job, buf)
    }

    /// Gives the usual packet its number and all that stands around it but the ICV; none, and nothing done, if it is
    /// another.
    ///
    /// Usual: tunnel mode, no UDP, a suite whose IV is the sequence number, the key expanded, no limit near, and the
    /// packet neither too large nor to be padded. With [`Self::seal_usual`] this does what [`Self::tunnel`] does.
    #[inline(always)]
    fn frame_usual(&mut self, number: u32, buf: &mut [u8], job: &mut Job, place: &mut Framed, now: u64) -> Option<()> {
        let hot = self.hots.get_mut(number)?;
        let usual = self.profiles.shape(hot.profile)?.usual.as_ref()?;
        let inside = Inside::of(buf.get(job.start..)?.get(..job.len)?)?;
        let payload = inside.octets;
        let is_simple = (now < hot.life.check_ns())
            & (payload <= hot.room as usize)
            & (payload >= usual.pad_to)
            & (hot.sequence < hot.last)
            & !hot.has_other_iv;
        if !is_simple || !self.store.contexts.has(hot.context_slot, number) {
            return None;
        }
        let first = job.start.checked_sub(usual.front)?;
        let body_octets = Form::usual_body(payload);
        let octets = usual.front + body_octets + usual.icv;
        let (front, rest) = buf.get_mut(first..)?.get_mut(..octets)?.split_at_mut_checked(usual.front)?;
        let body = rest.get_mut(..body_octets)?;
        let sequence = hot.sequence + 1;
        usual.template.write(front, octets, inside.taken, outer_identification(sequence, hot.spi));
        let numbers = Numbers { spi: hot.spi, sequence, salt: hot.salt };
        Form::frame_usual(numbers, inside.next_header, payload, front.last_chunk_mut()?, body)?;
        hot.sequence = sequence;
        (job.start, job.len, job.sequence) = (first, octets, sequence);
        place.input = usual.form.usual_input(numbers, sequence);
        place.slot = hot.context_slot;
        (place.front, place.icv) = (usual.front as u16, usual.icv as u16);
        if hot.life.account(payload, now) {
            self.look(number, now);
        }
        Some(())
    }

    /// Seals one packet; none if a length does not fit, which those of an installed SA do.
    #[inline(always)]
    fn seal_usual(&self, framed: &Framed, job: &Job, buf: &mut [u8]) -> Option<()> {
        let context = self.store.contexts.at(framed.slot)?;
        let packet = buf.get_mut(job.start..)?.get_mut(..job.len)?;
        let (packet, icv) = packet.split_at_mut_checked(job.len.checked_sub(framed.icv.into())?)?;
        framed.input.seal(context, packet.get_mut(framed.front.into()..)?, icv).ok()
    }

    /// Looks at the limits of an SA, one of which may be reached.
    #[cold]
    fn look(&mut self, number: u32, now: u64) {
        let Some(hot) = self.hots.get_mut(number) else { return };
        let Some(shape) = self.profiles.shape(hot.profile) else { return };
        let (whose, until) = (hot.whose(&shape.profile), hot.until());
        hot.life.look(&whose, until, now, &mut self.events);
        self.any_expired |= hot.life.expired;
    }

    #[inline(never)]
    pub(super) fn protect_any(
        &mut self,
        number: u32,
        buf: &mut [u8],
        job: &mut Job,
        tfc: &[u8],
        now: u64,
    ) -> Result<(), Dropped> {
        match Inside::of(buf.get(job.start..job.start.saturating_add(job.len)).unwrap_or_default()) {
            Some(inside) => self.tunnel(number, buf, job, inside, tfc, now),
            None => Err(self.refuse(DropReason::OutBadPacket)),
        }
    }

    /// Tunnel mode; hands on what is not.
    fn tunnel(
        &mut self,
        number: u32,
        buf: &mut [u8],
        job: &mut Job,
        inside: Inside,
        tfc: &[u8],
        now: u64,
    ) -> Result<(), Dropped> {
        let start = job.start;
        let Some(hot) = self.hots.get_mut(number) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let Some(shape) = self.profiles.shape(hot.profile) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let Some(template) = &shape.template else { return self.reshape(number, buf, job, inside, tfc, now) };
        let is_due = hot.life.is_due(now);
        if is_due {
            if hot.is_expired(shape, now, &mut self.events) {
                return Err(self.expired());
            }
            hot.age_mtu(shape, now, &mut self.events);
        }
        let room = hot.room as usize;
        let mut payload = inside.octets + tfc.len();
        if payload > room {
            let may_cut = shape.cut_after && inside.is_packet && inside.taken.df == 0;
            if !(may_cut && payload <= shape.tunnel_room(u16::MAX) as usize) {
                return Err(self.too_big(room));
            }
        }
        if shape.pad_to > payload || !tfc.is_empty() {
            let padded = if inside.is_packet { payload.max(shape.pad_to.min(room)) } else { payload };
            if append(buf, start + inside.octets, tfc, padded - payload).is_none() {
                return Err(self.too_big(0));
            }
            payload = padded;
        }
        if hot.sequence >= hot.last {
            return Err(self.used_up(number, now));
        }
        let sequence = hot.sequence + 1;
        let head = template.len() + shape.udp;
        let front = head + shape.form.front_octets();
        let octets = head + shape.form.octets_around(payload);
        let out = start.checked_sub(front).and_then(|first| buf.get_mut(first..first + octets));
        let Some(out) = out else { return Err(self.too_big(0)) };
        template.write(out, octets, inside.taken, outer_identification(sequence, hot.spi));
        let Some(frame) = out.get_mut(head..) else { return Err(self.too_big(0)) };
        if self.store.seal(number, hot, shape, inside.next_header, payload, frame).is_none() {
            return Err(self.refuse(DropReason::OutMode));
        }
        if let Some(encapsulation) = &shape.profile.encapsulation {
            wrap(encapsulation, out, template.len());
        }
        self.any_expired |= hot.account(shape, payload, is_due, now, &mut self.events);
        (job.start, job.len, job.sequence) = (start - front, octets, sequence);
        Ok(())
    }

    /// Transport and BEET mode.
    #[inline(never)]
    fn reshape(
        &mut self,
        number: u32,
        buf: &mut [u8],
        job: &mut Job,
        inside: Inside,
        tfc: &[u8],
        now: u64,
    ) -> Result<(), Dropped> {
        let start = job.start;
        let Some(hot) = self.hots.get_mut(number) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let Some(shape) = self.profiles.shape(hot.profile) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let is_due = hot.life.is_due(now);
        if is_due && hot.is_expired(shape, now, &mut self.events) {
            return Err(self.expired());
        }
        let profile = &*shape.profile;
        let packet = buf.get(start..start + inside.octets).unwrap_or_default();
        let datagram = ip::parse(packet).filter(|_| inside.is_packet && tfc.is_empty());
        let Some(datagram) = datagram else { return Err(self.refuse(DropReason::OutMode)) };
        let enclosed =
            modes::enclose(profile.mode, &datagram, buf, start, profile.outer.as_ref(), profile.inner.as_ref());
        let Enclosed { next_header, payload: payload_at, head } = match enclosed {
            Ok(enclosed) => enclosed,
            Err(reason) => return Err(self.refuse(reason)),
        };
        hot.age_mtu(shape, now, &mut self.events);
        let room = shape.room(head.len(), hot.mtu);
        let payload = start + datagram.octets - payload_at;
        if payload > room {
            let may_cut = shape.cut_after && !datagram.dont_fragment;
            if !(may_cut && payload <= shape.room(head.len(), u16::MAX)) {
                return Err(self.too_big((room + datagram.octets).saturating_sub(payload)));
            }
        }
        if hot.sequence >= hot.last {
            return Err(self.used_up(number, now));
        }
        let sequence = hot.sequence + 1;
        let before = head.len() + shape.udp;
        let front = before + shape.form.front_octets();
        let octets = before + shape.form.octets_around(payload);
        let Some(first) = payload_at.checked_sub(front) else { return Err(self.too_big(0)) };
        let protocol = if shape.udp == 0 { profile.protocol.ip_protocol() } else { number::UDP };
        if head.place(buf, first, first + octets, protocol).is_none() {
            return Err(self.too_big(0));
        }
        let Some(out) = buf.get_mut(first..first + octets) else { return Err(self.too_big(0)) };
        let Some(frame) = out.get_mut(before..) else { return Err(self.too_big(0)) };
        if self.store.seal(number, hot, shape, next_header, payload, frame).is_none() {
            return Err(self.refuse(DropReason::OutMode));
        }
        if let Some(encapsulation) = &profile.encapsulation {
            wrap(encapsulation, out, head.len());
        }
        self.any_expired |= hot.account(shape, payload, is_due, now, &mut self.events);
        (job.start, job.len, job.sequence) = (first, octets, sequence);
        Ok(())
    }

    #[cold]
    fn refuse(&mut self, reason: DropReason) -> Dropped {
        Dropped { reason: self.drops.count(reason), mtu: 0 }
    }

    #[cold]
    fn expired(&mut self) -> Dropped {
        self.any_expired = true;
        self.refuse(DropReason::OutExpired)
    }

    #[cold]
    fn too_big(&mut self, mtu: usize) -> Dropped {
        Dropped { reason: self.drops.count(DropReason::OutTooBig), mtu }
    }

    /// Drops a packet for which the SA has no number, now or ever.
    #[cold]
    fn used_up(&mut self, number: u32, now: u64) -> Dropped {
        let Some(hot) = self.hots.get(number) else { return self.refuse(DropReason::OutNoSa) };
        let Some(profile) = self.profiles.profile(hot.profile) else { return self.refuse(DropReason::OutNoSa) };
        if hot.sequence < profile.last_sequence() {
            return self.refuse(DropReason::OutNotReserved);
        }
        if self.audit {
            let outer = profile.outer;
            self.events.tell(Event {
                reason: Some(DropReason::OutSequenceOverflow),
                spi: hot.spi,
                sequence: hot.sequence as u32,
                source: outer.map(|outer| outer.local),
                destination: outer.map(|outer| outer.remote),
                ..Event::of(EventKind::Audit, now, hot.id)
            });
        }
        self.refuse(DropReason::OutSequenceOverflow)
    }
}

impl Hot {
    /// Says whether the hard lifetime is over, and tells so the first time.
    #[cold]
    fn is_expired(&mut self, shape: &Shape, now: u64, events: &mut EventQueue) -> bool {
        let whose = self.whose(&shape.profile);
        self.life.is_expired(&whose, now, events)
    }

    /// Counts a packet that was sent; returns whether its SA has expired with it.
    #[inline(always)]
    fn account(&mut self, shape: &Shape, payload: usize, is_due: bool, now: u64, events: &mut EventQueue) -> bool {
        if self.life.account(payload, now) | is_due {
            let (whose, until) = (self.whose(&shape.profile), self.until());
            self.life.look(&whose, until, now, events);
        }
        self.life.expired
    }
}

impl Store {
    /// Gives a packet its number and seals it; none if there is no key, which no installed SA lacks.
    ///
    /// frame: from the ESP header to the end of the ICV, the payload in its place.
    #[inline(always)]
    fn seal(
        &mut self,
        number: u32,
        hot: &mut Hot,
        shape: &Shape,
        next_header: u8,
        payload: usize,
        frame: &mut [u8],
    ) -> Option<()> {
        let iv = if hot.has_other_iv { self.other_iv(hot) } else { None };
        hot.sequence += 1;
        let context = match self.contexts.get(hot.context_slot, number) {
            Some(context) => context,
            None => {
                hot.context_slot = self.expand(number, hot.row, shape)?;
                self.contexts.get(hot.context_slot, number)?
            }
        };
        let numbers = Numbers { spi: hot.spi, sequence: hot.sequence, salt: hot.salt };
        shape.form.seal(context, numbers, iv, next_header, payload, frame).ok()
    }

    /// The IV of the next packet of an SA whose IV is not its sequence number.
    #[cold]
    fn other_iv(&self, hot: &Hot) -> Option<[u8; 16]> {
        if let Some(fixed) = self.extras.get(hot.row).and_then(|extra| extra.fixed_iv) {
            return Some(fixed);
        }
        // RFC 3602 §3: unpredictable; a counter under a key of its own is (NIST SP 800-38A appendix C).
        let mut block = (u128::from(hot.id) << 64 | u128::from(hot.sequence + 1)).to_be_bytes().into();
        self.iv_cipher.encrypt_block(&mut block);
        Some(block.into())
    }

    #[cold]
    fn expand(&mut self, number: u32, row: u32, shape: &Shape) -> Option<u32> {
        let context = expand(self.provider, &shape.profile, self.table.row(row)?, self.extras.get(row))?;
        Some(self.contexts.insert(number, context))
    }
}

/// Writes a UDP header between IP header and what is sealed.
#[inline(never)]
fn wrap(encapsulation: &UdpEncapsulation, packet: &mut [u8], head: usize) {
    let Some((head, datagram)) = packet.split_at_mut_checked(head) else { return };
    let addresses = if head.first().is_some_and(|first| first >> 4 == 4) { head.get(12..20) } else { head.get(8..40) };
    udp::write(encapsulation, addresses.unwrap_or_default(), datagram);
}

/// Puts octets and zeros behind a packet; none if the buffer has no room.
#[cold]
fn append(buf: &mut [u8], at: usize, tfc: &[u8], zeros: usize) -> Option<()> {
    let (octets, rest) = buf.get_mut(at..)?.split_at_mut_checked(tfc.len())?;
    octets.copy_from_slice(tfc);
    rest.get_mut(..zeros)?.fill(0);
    Some(())
}
