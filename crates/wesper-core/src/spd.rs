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

/// One direction's entries. The first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    entries: Vec<Policy>,
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
        Self { entries }
    }

    /// Returns an entry by its place.
    pub fn get(&self, index: usize) -> Option<&Policy> {
        self.entries.get(index)
    }

    /// Finds the entry for a flow; none if none matches.
    pub fn find(&self, flow: &Flow, way: Way) -> Option<&Policy> {
        self.entries.iter().find(|policy| policy.matches(flow, way))
    }

    /// Finds the entry for a packet; none if none matches.
    pub fn look_up(&self, packet: &[u8], way: Way) -> Result<Option<Found>, NotIp> {
        let flow = ip::flow(packet).ok_or(NotIp)?;
        let matching = self.entries.iter().enumerate().find(|(_, policy)| policy.matches(&flow, way));
        Ok(matching.map(|(index, policy)| Found { index, sa: policy.sa_for(&flow) }))
    }
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
    fn the_dscp_chooses_among_the_sas() {
        let list = Policies::new(vec![policy(Action::Protect, 7, vec![(DscpSet(1 << 46), 1), (DscpSet(0b11), 2)])]);
        let sa = |dscp| list.look_up(&packet(7, dscp), Way::Outbound).expect("IP").expect("matches").sa;
        assert_eq!((sa(46), sa(0), sa(1), sa(2)), (Some(1), Some(2), Some(2), None));
    }
}
