//! What an engine has to tell besides verdicts.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::selectors::Selector;
use crate::verdict::DropReason;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Make the next SA (RFC 4301 §4.4.2.1).
    SoftExpired,
    /// The SA is not used any more.
    HardExpired,
    /// Policy wants an SA that is not there (RFC 4301 §5.1 3b).
    Acquire,
    /// An authentic packet came from a new address or port (RFC 7296 §2.23).
    PeerMoved,
    /// An ECN combination that no known ingress makes (RFC 6040 §4.2).
    EcnAlarm,
    /// The path's MTU was learnt or has aged (RFC 4301 §8.2).
    MtuChanged,
    /// The high half of the sequence number was found again (RFC 4303 appendix A3).
    Resynchronised,
    /// An authentic packet broke what was agreed on: the SA should go (EESP §3.1.2).
    TearDown,
    /// An option that asks for an ICMP message was not known (WESPv2 §2.2.2).
    UnknownOption,
    /// An auditable event (RFC 4303 §4).
    Audit,
}

impl EventKind {
    /// Name in logs and in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SoftExpired => "soft_expired",
            Self::HardExpired => "hard_expired",
            Self::Acquire => "acquire",
            Self::PeerMoved => "peer_moved",
            Self::EcnAlarm => "ecn_alarm",
            Self::MtuChanged => "mtu_changed",
            Self::Resynchronised => "resynchronised",
            Self::TearDown => "tear_down",
            Self::UnknownOption => "unknown_option",
            Self::Audit => "audit",
        }
    }
}

/// One event; only the fields that its kind has are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Nanoseconds, as given to the call that caused it.
    pub now: u64,
    /// Id of the SA.
    pub sa: Option<u64>,
    /// Which lifetime: seconds, octets, packets, idle_seconds, sequence; which ECN alarm: possible, always.
    pub limit: &'static str,
    /// Audit and tear down: why the packet was dropped.
    pub reason: Option<DropReason>,
    /// Audit: the packet's SPI.
    pub spi: u32,
    /// Audit and resynchronised: low half of the sequence number.
    pub sequence: u32,
    /// Audit and unknown option: outer source.
    pub source: Option<IpAddr>,
    /// Audit and unknown option: outer destination.
    pub destination: Option<IpAddr>,
    /// Audit: the outer IPv6 header's.
    pub flow_label: u32,
    /// Peer moved: where it is now.
    pub address: Option<IpAddr>,
    /// Peer moved: its port.
    pub port: u16,
    /// MTU changed: octets.
    pub mtu: u16,
    /// ECN alarm: inner codepoint.
    pub inner: u8,
    /// ECN alarm: outer codepoint.
    pub outer: u8,
    /// Acquire: selector of the SA to be made.
    pub selector: Option<Box<Selector>>,
    /// Audit, tear down, peer moved: Session ID.
    pub session: u16,
    /// Unknown option: where its type stands, in octets from the outer IP header's first.
    pub pointer: u16,
    /// Unknown option: the packet as it came, cut to [`MOST_QUOTED`] octets.
    pub packet: Vec<u8>,
}

/// Octets of a packet that an ICMPv6 message can quote (RFC 4443 §2.4 (c)); ICMP quotes fewer.
pub const MOST_QUOTED: usize = 1280 - 40 - 8;

impl Event {
    /// An event with nothing but its kind and time.
    pub fn new(kind: EventKind, now: u64) -> Self {
        Self {
            kind,
            now,
            sa: None,
            limit: "",
            reason: None,
            spi: 0,
            sequence: 0,
            source: None,
            destination: None,
            flow_label: 0,
            address: None,
            port: 0,
            mtu: 0,
            inner: 0,
            outer: 0,
            selector: None,
            session: 0,
            pointer: 0,
            packet: Vec::new(),
        }
    }

    /// An event of one SA.
    pub(crate) fn of(kind: EventKind, now: u64, sa: u64) -> Self {
        Self { sa: Some(sa), ..Self::new(kind, now) }
    }
}

/// RFC 4303 §4, RFC 4301 §5, EESP §7: whether a drop for this reason leaves a trace in the audit log, if it is on.
pub const fn is_auditable(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::Fragment
            | DropReason::NoSa
            | DropReason::Replay
            | DropReason::Auth
            | DropReason::SelectorMismatch
            | DropReason::BadSession
            | DropReason::BadCryptOffset
            | DropReason::OutSequenceOverflow
    )
}

/// Events in order, a bounded number of them.
pub(crate) struct EventQueue {
    queue: VecDeque<Event>,
    limit: usize,
    lost: u64,
}

impl EventQueue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), limit, lost: 0 }
    }

    /// Adds an event, or counts it as lost. Audits, which anybody can cause, take half of the room at most.
    #[cold]
    pub(crate) fn tell(&mut self, event: Event) {
        let room = if event.kind == EventKind::Audit { self.limit.div_ceil(2) } else { self.limit };
        if self.queue.len() < room {
            self.queue.push_back(event);
        } else {
            self.lost += 1;
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes what another queue holds and has lost, as if it had been told here.
    #[cold]
    pub(crate) fn take_from(&mut self, other: &mut Self) {
        while let Some(event) = other.next() {
            self.tell(event);
        }
        self.lost += std::mem::take(&mut other.lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_counts_what_it_loses() {
        let (mut first, mut second) = (EventQueue::new(4), EventQueue::new(4));
        for now in 0..3 {
            first.tell(Event::new(EventKind::Audit, now));
        }
        assert_eq!((first.lost(), first.is_empty()), (1, false));
        second.tell(Event::of(EventKind::PeerMoved, 9, 7));
        second.take_from(&mut first);
        assert_eq!((first.lost(), first.is_empty()), (0, true));
        assert_eq!(second.lost(), 2);
        assert_eq!(second.next().map(|event| event.sa), Some(Some(7)));
        assert_eq!(second.next().map(|event| event.now), Some(0));
        assert_eq!(second.next(), None);
    }
}
