//! A packet's way out (RFC 4303 §3.3): in place, the usual case in one straight line.

use std::hint::black_box;
use std::sync::Arc;

use super::seal::Content;
use super::shape::{Named, Shape};
use super::usual::Framed;
use super::{Dropped, HEADROOM, Hot, Sealed, Sender, TAILROOM};
use crate::batch::{GROUP, Ids, Job, Marks, Output, Results, packet};
use crate::events::{Event, EventKind, EventQueue};
use crate::ip::{self, IPV4_HEADER, IPV6_HEADER, number};
use crate::modes::{self, DF, Enclosed, Taken, outer_identification, sub_sa_identification};
use crate::profile::{Mode, Profile, UdpEncapsulation};
use crate::udp;
use crate::verdict::DropReason;

/// What comes with a packet besides its octets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Besides<'a> {
    /// Octets to append, tunnel mode only.
    pub tfc: &'a [u8],
    /// What flows are named by if the SA's policy says so.
    pub mark: u32,
}

/// What a tunnel carries, and what its outer header takes from it.
#[derive(Clone, Copy)]
pub(super) struct Inside {
    pub(super) octets: usize,
    pub(super) next_header: u8,
    pub(super) taken: Taken,
    /// May grow by the profile's traffic-flow padding, or be cut after protection.
    pub(super) is_packet: bool,
}

impl Inside {
    /// Reads the first header of a packet; none if it is not IP or its lengths contradict each other.
    #[inline(always)]
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
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

    /// Octets that are no packet: one that the peer throws away (RFC 4303 §2.6), an AGGFRAG payload.
    fn opaque(octets: usize, next_header: u8) -> Self {
        Self { octets, next_header, taken: Taken::default(), is_packet: false }
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
        self.encapsulate_with(sa, buf, start, len, Besides::default(), now)
    }

    /// Protects one packet with what comes besides; octets that are appended need free room as well.
    #[inline]
    pub fn encapsulate_with(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        start: usize,
        len: usize,
        besides: Besides<'_>,
        now: u64,
    ) -> Result<Sealed, Dropped> {
        let Some(number) = self.hot_number(sa) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let mut job = Job::new(sa, start, len);
        self.protect(number, buf, &mut job, besides, now)?;
        Ok(Sealed { start: job.start, len: job.len, sequence: job.sequence, flow: job.flow })
    }

    /// Makes a packet that the peer throws away (RFC 4303 §2.6): in tunnel mode; with EESP wherever the format has a Next
    /// Header and the profile outer addresses.
    ///
    /// buf: the payload, any octets, stands at `start..start + len`; free octets as in [`Self::encapsulate`].
    pub fn dummy(&mut self, sa: u64, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Sealed, Dropped> {
        let Some(number) = self.hot_number(sa) else { return Err(self.refuse(DropReason::OutNoSa)) };
        if buf.get(start..start.saturating_add(len)).is_none() {
            return Err(self.too_big(0));
        }
        let mut job = Job::new(sa, start, len);
        let inside = Inside::opaque(len, number::NO_NEXT_HEADER);
        self.tunnel(number, buf, &mut job, inside, Besides::default(), now)?;
        Ok(Sealed { start: job.start, len: job.len, sequence: job.sequence, flow: job.flow })
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
                    let besides = Besides { mark: job.flow as u32, ..Besides::default() };
                    self.protect_any(number, buf, job, besides, now)
                };
                job.end(done.map_err(|dropped| dropped.reason));
            }
            self.seal_framed(jobs, &framed, sealed, buf);
        }
    }

    /// Protects packets, in order, from one buffer into another: packet i is `data[offsets[i]..offsets[i + 1]]`.
    ///
    /// memory: what an earlier batch was written to, or an empty vector; the results take it over.
    pub fn encapsulate_many(
        &mut self,
        ids: Ids<'_>,
        marks: Marks<'_>,
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
                let besides = Besides { mark: marks.get(index), ..Besides::default() };
                match self.protect_at_end(number, packet(data, offsets, index), besides, &mut results.output, now) {
                    Ok(Job { len, sequence, flow, .. }) => results.delivered(len, ids.get(index), sequence, flow),
                    Err(dropped) => results.dropped(dropped.reason),
                }
            }
        }
        results
    }

    /// Protects a packet at an output's end, and returns the job that it was.
    #[inline(always)]
    fn protect_at_end(
        &mut self,
        number: u32,
        packet: &[u8],
        besides: Besides<'_>,
        output: &mut Output,
        now: u64,
    ) -> Result<Job, Dropped> {
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
        self.protect(number, buf, &mut job, besides, now)?;
        if job.start != end {
            buf.copy_within(job.start..job.start + job.len, end);
        }
        Ok(job)
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
    fn protect(
        &mut self,
        number: u32,
        buf: &mut [u8],
        job: &mut Job,
        besides: Besides<'_>,
        now: u64,
    ) -> Result<(), Dropped> {
        let done = if besides.tfc.is_empty() { self.protect_usual(number, buf, job, now) } else { None };
        match done {
            Some(()) => Ok(()),
            None => self.protect_any(number, buf, job, besides, now),
        }
    }

    /// Looks at the limits of an SA, one of which may be reached.
    #[cold]
    pub(super) fn look(&mut self, number: u32, now: u64) {
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
        besides: Besides<'_>,
        now: u64,
    ) -> Result<(), Dropped> {
        if self.hots.get(number).and_then(|hot| self.profiles.profile(hot.profile)).is_some_and(is_iptfs) {
            if buf.get(job.start..job.start.saturating_add(job.len)).is_none() {
                return Err(self.too_big(0));
            }
            return self.tunnel(number, buf, job, Inside::opaque(job.len, number::AGGFRAG), besides, now);
        }
        match Inside::of(buf.get(job.start..job.start.saturating_add(job.len)).unwrap_or_default()) {
            Some(inside) => self.tunnel(number, buf, job, inside, besides, now),
            None => Err(self.refuse(DropReason::OutBadPacket)),
        }
    }

    /// Everything that gets a header from the profile; hands on what brings its own.
    fn tunnel(
        &mut self,
        number: u32,
        buf: &mut [u8],
        job: &mut Job,
        inside: Inside,
        besides: Besides<'_>,
        now: u64,
    ) -> Result<(), Dropped> {
        let (start, tfc) = (job.start, besides.tfc);
        let Some(hot) = self.hots.get_mut(number) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let Some(shape) = self.profiles.shape(hot.profile) else { return Err(self.refuse(DropReason::OutNoSa)) };
        let template = shape.template.as_ref().filter(|_| shape.is_tunnel || !inside.is_packet);
        let Some(template) = template else { return self.reshape(number, buf, job, inside, besides, now) };
        let is_due = hot.life.is_due(now);
        if is_due && hot.is_expired(shape, now, &mut self.events) {
            return Err(self.expired());
        }
        let is_dummy = !inside.is_packet && inside.next_header == number::NO_NEXT_HEADER;
        let takes_tfc = shape.is_tunnel && shape.form.takes_tfc();
        if (is_dummy && !shape.takes_dummies) || (!tfc.is_empty() && !takes_tfc) {
            return Err(self.refuse(DropReason::OutMode));
        }
        if is_due {
            hot.age_mtu(shape, now, &mut self.events);
        }
        let packet = buf.get(start..start + inside.octets).unwrap_or_default();
        let named = shape.name(hot.flow_key(), packet, inside.is_packet, besides.mark);
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
        let last = hot.last_number(named.sub_sa);
        if last >= hot.last {
            return Err(self.used_up(number, last, now));
        }
        let sequence = last + 1;
        let head = template.len() + shape.udp;
        let plan = shape.plan(hot.spi, &named, buf, start, inside, payload, template.version());
        let (front, octets) = shape.octets(plan.as_ref(), payload);
        let (front, octets) = (head + front, head + octets);
        let out = start.checked_sub(front).and_then(|first| buf.get_mut(first..first + octets));
        let Some(out) = out else { return Err(self.too_big(0)) };
        template.write(out, octets, inside.taken, identification(sequence, hot.spi, &named));
        let Some(frame) = out.get_mut(head..) else { return Err(self.too_big(0)) };
        let content = Content { next_header: inside.next_header, payload, named: &named, plan: plan.as_ref() };
        if self.store.seal(number, hot, shape, sequence, content, frame).is_none() {
            return Err(self.refuse(DropReason::OutMode));
        }
        if let Some(encapsulation) = &shape.profile.encapsulation {
            let port = shape.form.source_port(named.flow, encapsulation.local_port);
            wrap(encapsulation, port, out, template.len());
        }
        self.any_expired |= hot.account(shape, named.sub_sa, payload, is_due, now, &mut self.events);
        (job.start, job.len, job.sequence, job.flow) = (start - front, octets, sequence, named.flow);
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
        besides: Besides<'_>,
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
        let datagram = ip::parse(packet).filter(|_| inside.is_packet && besides.tfc.is_empty());
        let Some(datagram) = datagram else { return Err(self.refuse(DropReason::OutMode)) };
        let named = shape.name(hot.flow_key(), packet, inside.is_packet, besides.mark);
        let enclosed =
            modes::enclose(profile.mode, &datagram, buf, start, profile.outer.as_ref(), profile.inner.as_ref());
        let Enclosed { next_header, payload: payload_at, head } = match enclosed {
            Ok(enclosed) => enclosed,
            Err(reason) => return Err(self.refuse(reason)),
        };
        hot.age_mtu(shape, now, &mut self.events);
        let version = head.version(buf);
        let room = shape.room(head.len(), version, hot.mtu);
        let payload = start + datagram.octets - payload_at;
        if payload > room {
            let may_cut = shape.cut_after && !datagram.dont_fragment;
            if !(may_cut && payload <= shape.room(head.len(), version, u16::MAX)) {
                return Err(self.too_big((room + datagram.octets).saturating_sub(payload)));
            }
        }
        let last = hot.last_number(named.sub_sa);
        if last >= hot.last {
            return Err(self.used_up(number, last, now));
        }
        let sequence = last + 1;
        let inside = Inside { next_header, ..inside };
        let plan = shape.plan(hot.spi, &named, buf, start, inside, payload, version);
        let before = head.len() + shape.udp;
        let (front, octets) = shape.octets(plan.as_ref(), payload);
        let (front, octets) = (before + front, before + octets);
        let Some(first) = payload_at.checked_sub(front) else { return Err(self.too_big(0)) };
        let protocol = if shape.udp == 0 { profile.ip_protocol() } else { number::UDP };
        if head.place(buf, first, first + octets, protocol).is_none() {
            return Err(self.too_big(0));
        }
        let Some(out) = buf.get_mut(first..first + octets) else { return Err(self.too_big(0)) };
        let Some(frame) = out.get_mut(before..) else { return Err(self.too_big(0)) };
        let content = Content { next_header, payload, named: &named, plan: plan.as_ref() };
        if self.store.seal(number, hot, shape, sequence, content, frame).is_none() {
            return Err(self.refuse(DropReason::OutMode));
        }
        if let Some(encapsulation) = &profile.encapsulation {
            wrap(encapsulation, shape.form.source_port(named.flow, encapsulation.local_port), out, head.len());
        }
        self.any_expired |= hot.account(shape, named.sub_sa, payload, is_due, now, &mut self.events);
        (job.start, job.len, job.sequence, job.flow) = (first, octets, sequence, named.flow);
        Ok(())
    }

    #[cold]
    pub(super) fn refuse(&mut self, reason: DropReason) -> Dropped {
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
    fn used_up(&mut self, number: u32, last: u64, now: u64) -> Dropped {
        let Some(hot) = self.hots.get(number) else { return self.refuse(DropReason::OutNoSa) };
        let Some(profile) = self.profiles.profile(hot.profile) else { return self.refuse(DropReason::OutNoSa) };
        if last < profile.last_sequence() {
            return self.refuse(DropReason::OutNotReserved);
        }
        if self.audit {
            let outer = profile.outer;
            self.events.tell(Event {
                reason: Some(DropReason::OutSequenceOverflow),
                spi: hot.spi,
                sequence: last as u32,
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
    fn account(
        &mut self,
        shape: &Shape,
        sub_sa: Option<u16>,
        payload: usize,
        is_due: bool,
        now: u64,
        events: &mut EventQueue,
    ) -> bool {
        if let Some(sub_sa) = sub_sa.and_then(|id| self.sub_sa_mut(id)) {
            sub_sa.packets += 1;
            sub_sa.octets += payload as u64;
        }
        if self.life.account(payload, now) | is_due {
            let (whose, until) = (self.whose(&shape.profile), self.until());
            self.life.look(&whose, until, now, events);
        }
        self.life.expired
    }
}

fn is_iptfs(profile: &Arc<Profile>) -> bool {
    profile.mode == Mode::Iptfs
}

#[inline(always)]
fn identification(sequence: u64, spi: u32, named: &Named) -> u16 {
    match named.sub_sa {
        None => outer_identification(sequence, spi),
        Some(id) => sub_sa_identification(sequence, spi, id),
    }
}

/// Writes a UDP header between IP header and what is sealed.
#[inline(never)]
fn wrap(encapsulation: &UdpEncapsulation, source_port: u16, packet: &mut [u8], head: usize) {
    let Some((head, datagram)) = packet.split_at_mut_checked(head) else { return };
    let addresses = if head.first().is_some_and(|first| first >> 4 == 4) { head.get(12..20) } else { head.get(8..40) };
    udp::write(encapsulation, source_port, addresses.unwrap_or_default(), datagram);
}

/// Puts octets and zeros behind a packet; none if the buffer has no room.
#[cold]
fn append(buf: &mut [u8], at: usize, tfc: &[u8], zeros: usize) -> Option<()> {
    let (octets, rest) = buf.get_mut(at..)?.split_at_mut_checked(tfc.len())?;
    octets.copy_from_slice(tfc);
    rest.get_mut(..zeros)?.fill(0);
    Some(())
}
