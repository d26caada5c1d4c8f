//! The security policy database: an ordered list of what to do with which traffic (RFC 4301 §4.4.1).

use crate::ip::{self, Flow};
use crate::selectors::{FromPacket, Selector, Way};

/// What policy does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Through an SA.
    Protect,
    /// As it is.
    Bypass,
    /// Not at all.
    Discard,
}

/// DSCP values, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DscpSet(pub u64);

impl DscpSet {
    /// Every value.
    pub const ALL: Self = Self(u64::MAX);

    /// Says whether a value, 0..63, is in the set.
    pub fn holds(self, dscp: u8) -> bool {
        self.0 >> (dscp & 63) & 1 == 1
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What to do.
    pub action: Action,
    /// Sets of traffic, any of which matches; empty matches all.
    pub selectors: Vec<Selector>,
    /// Ids of the SAs that may carry it, the first whose DSCP set holds the packet's (RFC 4301 §4.1).
    pub sas: Vec<(DscpSet, u64)>,
    /// What an SA to be made takes from the packet.
    pub from_packet: FromPacket,
}

impl Policy {
    /// Says whether the entry is for this flow.
    pub fn matches(&self, flow: &Flow, way: Way) -> bool {
        self.selectors.is_empty() || self.selectors.iter().any(|selector| selector.matches(flow, way))
    }

    /// Returns the SA that carries this flow's packets.
    pub fn sa_for(&self, flow: &Flow) -> Option<u64> {
        self.sas.iter().find(|(dscp, _)| dscp.holds(flow.dscp)).map(|(_, sa)| *sa)
    }

    /// Returns the selector of an SA to be made for an outbound flow.
    pub fn selector_for(&self, flow: &Flow) -> Selector {
        let base = self.selectors.iter().find(|selector| selector.matches(flow, Way::Outbound));
        base.unwrap_or(&Selector::default()).narrowed(flow, self.from_packet)
    }
}

/// Entries from which on it is worth to remember what a flow has matched.
const MANY: usize = 8;
/// Flows that are remembered, each in the one place that its hash names.
const REMEMBERED: usize = 1024;

/// One direction's entries. The first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    entries: Vec<Policy>,
    /// What flows have matched lately; empty if there are few entries.
    lately: Vec<Option<(Flow, Option<usize>)>>,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Place of the entry.
    pub index: usize,
    /// The SA that it names for this packet.
    pub sa: Option<u64>,
}

/// The packet is not IP, so that no entry is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP packet")]
pub struct NotIp;

impl Policies {
    /// Makes the list.
    pub fn new(entries: Vec<Policy>) -> Self {
        let lately = if entries.len() < MANY { Vec::new() } else { vec![None; REMEMBERED] };
        Self { entries, lately }
    }

    /// Returns an entry by its place.
    pub fn get(&self, index: usize) -> Option<&Policy> {
        self.entries.get(index)
    }

    /// Finds the entry for a flow; none if none matches. way: always the same.
    ///
    /// Cost: that of one entry for a flow that was asked for lately, of all up to the one that matches for another.
    pub fn find(&mut self, flow: &Flow, way: Way) -> Option<&Policy> {
        let matching = |entries: &[Policy]| entries.iter().position(|policy| policy.matches(flow, way));
        let index = match self.lately.get_mut(place_of(flow)) {
            Some(Some((known, index))) if known == flow => *index,
            Some(place) => {
                let index = matching(&self.entries);
                *place = Some((*flow, index));
                index
            }
            None => matching(&self.entries),
        };
        self.entries.get(index?)
    }

    /// Finds the entry for a packet; none if none matches.
    pub fn look_up(&self, packet: &[u8], way: Way) -> Result<Option<Found>, NotIp> {
        let flow = ip::flow(packet).ok_or(NotIp)?;
        let matching = self.entries.iter().enumerate().find(|(_, policy)| policy.matches(&flow, way));
        Ok(matching.map(|(index, policy)| Found { index, sa: policy.sa_for(&flow) }))
    }
}

/// Where a flow is remembered. It comes from the protected side: who makes flows collide slows only that down.
fn place_of(flow: &Flow) -> usize {
    let (source, destination) = (fold(flow.source), fold(flow.destination));
    let (first, second) = flow.ports.unwrap_or_default();
    let rest = u64::from(first) << 32 | u64::from(second) << 16 | u64::from(flow.protocol) << 8 | u64::from(flow.dscp);
    let mixed = (source.rotate_left(32) ^ destination ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize % REMEMBERED
}

fn fold(address: u128) -> u64 {
    (address >> 64) as u64 ^ address as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selectors::AddressRange;

    /// An IPv4 packet from 10.0.0.1 to `to` with this DSCP.
    fn packet(to: u8, dscp: u8) -> [u8; 20] {
        [0x45, dscp << 2, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, to]
    }

    fn policy(action: Action, to: u8, sas: Vec<(DscpSet, u64)>) -> Policy {
        let remote = vec![AddressRange::single(4, 0x0a00_0000 + u128::from(to))];
        let selectors = vec![Selector { remote, ..Selector::default() }];
        Policy { action, selectors, sas, from_packet: FromPacket::default() }
    }

    #[test]
    fn the_first_entry_that_matches_counts() {
        let all = Policy { selectors: vec![], ..policy(Action::Discard, 0, vec![]) };
        let list = Policies::new(vec![policy(Action::Bypass, 7, vec![]), all, policy(Action::Protect, 8, vec![])]);
        let found = |to| list.look_up(&packet(to, 0), Way::Outbound).expect("IP").map(|found| found.index);
        assert_eq!((found(7), found(8)), (Some(0), Some(1)));
        assert_eq!(list.get(1).map(|policy| policy.action), Some(Action::Discard));
        assert_eq!(Policies::default().look_up(&packet(7, 0), Way::Outbound), Ok(None));
        assert_eq!(list.look_up(b"not IP", Way::Outbound), Err(NotIp));
    }

    #[test]
    fn what_is_remembered_is_what_matches() {
        let entries: Vec<_> = (0..100).map(|to| policy(Action::Protect, to, vec![(DscpSet::ALL, to.into())])).collect();
        let mut remembering = Policies::new(entries);
        for _ in 0..2 {
            // More flows than places, so that some drive others out.
            for number in 0..5000_u16 {
                let to = (number % 120) as u8;
                let flow = Flow { ports: Some((number, 80)), ..ip::flow(&packet(to, 0)).expect("IP") };
                let found = remembering.find(&flow, Way::Outbound).map(|policy| policy.sas[0].1);
                assert_eq!(found, (to < 100).then_some(to.into()));
            }
        }
        assert!(remembering.lately.iter().filter(|place| place.is_some()).count() > REMEMBERED / 2);
    }

    #[test]
    fn the_dscp_chooses_among_the_sas() {
        let list = Policies::new(vec![policy(Action::Protect, 7, vec![(DscpSet(1 << 46), 1), (DscpSet(0b11), 2)])]);
        let sa = |dscp| list.look_up(&packet(7, dscp), Way::Outbound).expect("IP").expect("matches").sa;
        assert_eq!((sa(46), sa(0), sa(1), sa(2)), (Some(1), Some(2), Some(2), None));
    }
}
