//! What becomes of a packet: its drop counted and audited, or the inner packet put together.

use std::net::IpAddr;

use super::Outcome;
use super::shape::Shape;
use crate::ecn::Alarm;
use crate::events::{Event, EventKind, MOST_QUOTED, is_auditable};
use crate::form::Arrived;
use crate::ip::{self, Datagram, number};
use crate::modes::{self, Payload, inner_length};
use crate::profile::Mode;
use crate::selectors::Way;
use crate::verdict::DropReason;

/// What an audit event says of a packet.
#[derive(Clone, Copy, Default)]
pub(super) struct About {
    pub(super) sa: Option<u64>,
    pub(super) spi: u32,
    pub(super) low: u32,
    pub(super) session: u16,
}

/// What there may be to tell of a packet whose ICV has held.
pub(super) struct Told<'a> {
    pub(super) arrived: &'a Arrived,
    /// Octets in front of the protocol's first.
    pub(super) at: usize,
    /// The packet as it came, as far as a message to its sender quotes it.
    pub(super) quoted: Vec<u8>,
}

/// Copies what a message to a packet's sender can quote of it.
#[cold]
pub(super) fn quoted(packet: Option<&[u8]>) -> Vec<u8> {
    packet.map(|packet| packet.get(..MOST_QUOTED).unwrap_or(packet)).unwrap_or_default().to_vec()
}

impl Outcome {
    /// Counts a drop that leaves no trace in the audit log.
    #[cold]
    pub(super) fn drop(&mut self, reason: DropReason) -> DropReason {
        self.drops.count(reason)
    }

    /// Counts a drop, and audits it if it is auditable.
    #[cold]
    pub(super) fn refuse(
        &mut self,
        reason: DropReason,
        about: About,
        received: &[u8],
        flow_label: u32,
        now: u64,
    ) -> DropReason {
        if self.audit && is_auditable(reason) {
            self.tell_audit(reason, about, ip::addresses(received), flow_label, now);
        }
        self.drops.count(reason)
    }

    /// Counts a drop of a packet whose ICV has held, and tells what its SA's owner has to know.
    #[cold]
    pub(super) fn refuse_authentic(
        &mut self,
        reason: DropReason,
        told: Told<'_>,
        about: About,
        received: &[u8],
        datagram: &Datagram,
        now: u64,
    ) -> DropReason {
        let Told { arrived, at, quoted } = told;
        let event = |kind| Event { sa: about.sa, ..Event::new(kind, now) };
        if arrived.broken == Some(reason) {
            let session = about.session;
            self.events.tell(Event { reason: Some(reason), session, ..event(EventKind::TearDown) });
        }
        let ends = ip::addresses(received);
        if let (DropReason::UnknownOption, Some((kind, option_at)), Some((source, destination))) =
            (reason, arrived.option, ends)
        {
            // Of four actions one asks for an ICMP message, another but for multicast (WESPv2 §2.2.2).
            if arrived.asks_for_message() && (kind >> 6 == 2 || !destination.is_multicast()) {
                let (source, destination) = (Some(source), Some(destination));
                let (pointer, packet) = ((at + option_at) as u16, quoted);
                self.events.tell(Event { source, destination, pointer, packet, ..event(EventKind::UnknownOption) });
            }
        }
        self.refuse(reason, about, received, datagram.flow_label, now)
    }

    pub(super) fn tell_audit(
        &mut self,
        reason: DropReason,
        about: About,
        ends: Option<(IpAddr, IpAddr)>,
        flow_label: u32,
        now: u64,
    ) {
        self.events.tell(Event {
            sa: about.sa,
            reason: Some(reason),
            spi: about.spi,
            sequence: about.low,
            session: about.session,
            source: ends.map(|(source, _)| source),
            destination: ends.map(|(_, destination)| destination),
            flow_label,
            ..Event::new(EventKind::Audit, now)
        });
    }

    /// Makes the inner packet of a tunnel what it has to be, and returns its octets.
    #[inline(always)]
    pub(super) fn release_tunnel(
        &mut self,
        arrived: modes::Arrived,
        sa: u64,
        next_header: u8,
        inner: &mut [u8],
        now: u64,
    ) -> Result<usize, DropReason> {
        // RFC 4303 §2.7: what is longer than the packet says is TFC padding.
        let total = inner_length(next_header, inner);
        let Some(packet) = total.and_then(|total| inner.get_mut(..total)) else {
            let is_dummy = next_header == number::NO_NEXT_HEADER;
            return Err(self.drop(if is_dummy { DropReason::Dummy } else { DropReason::BadInner }));
        };
        let released = modes::release_tunnel(packet, arrived);
        if released.alarm != Alarm::None {
            self.events.tell(Event {
                limit: released.alarm.name(),
                inner: released.inner_ecn,
                outer: arrived.traffic_class & 3,
                ..Event::of(EventKind::EcnAlarm, now, sa)
            });
        }
        if released.is_dropped {
            return Err(self.drop(DropReason::EcnDrop));
        }
        Ok(packet.len())
    }

    /// Puts the inner packet together in any mode, and holds it to the SA's selectors (RFC 4301 §5.2 step 4).
    #[inline(never)]
    pub(super) fn release(
        &mut self,
        shape: &Shape,
        datagram: &Datagram,
        buf: &mut [u8],
        payload: Payload,
        about: About,
        now: u64,
    ) -> Result<(usize, usize), DropReason> {
        // The received header may be overwritten.
        let ends = buf.get(payload.start..).and_then(ip::addresses);
        let (start, len) = if shape.is_tunnel {
            let inner = buf.get_mut(payload.at..payload.at + payload.octets).unwrap_or_default();
            let arrived = modes::Arrived { traffic_class: datagram.traffic_class, take_dscp: shape.take_dscp };
            (payload.at, self.release_tunnel(arrived, about.sa.unwrap_or(0), payload.next_header, inner, now)?)
        } else if payload.next_header == number::NO_NEXT_HEADER {
            return Err(self.drop(DropReason::Dummy));
        } else if shape.profile.mode == Mode::Iptfs {
            if payload.next_header != number::AGGFRAG {
                return Err(self.drop(DropReason::BadInner));
            }
            (payload.at, payload.octets)
        } else {
            let profile = &shape.profile;
            modes::release(profile.mode, datagram, buf, payload, profile.inner.as_ref())
                .map_err(|reason| self.drop(reason))?
        };
        let selectors = &shape.profile.selectors;
        if selectors.is_empty() {
            return Ok((start, len));
        }
        let Some(flow) = buf.get(start..start + len).and_then(ip::flow) else {
            return Err(self.drop(DropReason::BadInner));
        };
        if selectors.iter().any(|selector| selector.matches(&flow, Way::Inbound)) {
            return Ok((start, len));
        }
        if self.audit {
            self.tell_audit(DropReason::SelectorMismatch, about, ends, datagram.flow_label, now);
        }
        Err(self.drop(DropReason::SelectorMismatch))
    }
}
