//! Sub SAs of an inbound SA: windows that come with their first authentic packet (draft-ietf-ipsecme-eesp-03 §2.9.2).

use std::collections::HashMap;
use std::net::IpAddr;

use super::Hot;
use super::shape::Shape;
use crate::replay::ReplayWindow;
use crate::tally::Share;

/// What few SAs have.
#[derive(Default)]
pub(super) struct More {
    /// By ID, at most one more than the highest that was announced.
    pub(super) sub_sas: HashMap<u16, SubSa>,
    /// Numbers up to the SA's own count as received, also in Sub SAs to come.
    pub(super) is_closed: bool,
    /// Where limits are counted together with other shards.
    pub(super) share: Option<Share>,
}

/// Where a peer sends from.
pub(super) type Peer = Option<Box<(IpAddr, u16)>>;

/// One Sub SA.
#[derive(Default)]
pub(super) struct SubSa {
    /// Highest number accepted.
    pub(super) top: u64,
    window: Option<ReplayWindow>,
    pub(super) packets: u64,
    pub(super) octets: u64,
    peer: Peer,
}

impl Hot {
    pub(super) fn sub_sa(&self, id: u16) -> Option<&SubSa> {
        self.more.as_ref()?.sub_sas.get(&id)
    }

    /// The highest number accepted, of all Sub SAs.
    pub(super) fn highest(&self) -> u64 {
        let sub_sas = self.more.iter().flat_map(|more| more.sub_sas.values());
        sub_sas.map(|sub_sa| sub_sa.top).fold(self.top, u64::max)
    }

    /// A Sub SA as it begins: at the SA's own number, which stays where it was.
    fn begin(&self, shape: &Shape) -> SubSa {
        let mut window = ReplayWindow::new(shape.window()).ok();
        if let Some(window) = window.as_mut().filter(|_| self.more.as_ref().is_some_and(|more| more.is_closed)) {
            window.close(self.top);
        }
        SubSa { top: self.top, window, ..SubSa::default() }
    }

    /// Says whether a Sub SA's window takes a number. Makes nothing.
    pub(super) fn is_fresh_in(&self, shape: &Shape, id: u16, sequence: u64) -> bool {
        let new;
        let sub_sa = match self.sub_sa(id) {
            Some(sub_sa) => sub_sa,
            None if sequence > self.top => return true,
            None => {
                new = self.begin(shape);
                &new
            }
        };
        sub_sa.window.as_ref().is_none_or(|window| window.check(sub_sa.top, sequence).is_fresh())
    }

    /// Notes an authentic packet of a Sub SA, which may be the first; returns whether it is the newest under a window.
    pub(super) fn accept_in(&mut self, shape: &Shape, id: u16, sequence: u64, octets: usize) -> bool {
        let new = if self.sub_sa(id).is_none() { Some(self.begin(shape)) } else { None };
        let sub_sas = &mut self.more.get_or_insert_default().sub_sas;
        let sub_sa = sub_sas.entry(id).or_insert_with(|| new.unwrap_or_default());
        sub_sa.packets += 1;
        sub_sa.octets += octets as u64;
        let is_newest = sequence > sub_sa.top;
        match &mut sub_sa.window {
            Some(window) => {
                window.accept(&mut sub_sa.top, sequence);
                is_newest
            }
            None => {
                sub_sa.top = sub_sa.top.max(sequence);
                false
            }
        }
    }

    /// Where the newest packet of a Sub SA, or of the SA itself, came from.
    pub(super) fn peer_of(&mut self, sub_sa: Option<u16>) -> &mut Peer {
        match sub_sa {
            None => &mut self.peer,
            Some(id) => &mut self.more.get_or_insert_default().sub_sas.entry(id).or_default().peer,
        }
    }

    /// Forgets where packets came from.
    pub(super) fn forget_peers(&mut self) {
        self.peer = None;
        self.more.iter_mut().flat_map(|more| more.sub_sas.values_mut()).for_each(|sub_sa| sub_sa.peer = None);
    }

    /// Counts all numbers up to the highest, and at least `top`, as received, in every Sub SA that is or will be.
    pub(super) fn close(&mut self, top: u64) {
        self.top = self.top.max(top);
        if let Some(window) = &mut self.window {
            window.close(self.top);
        }
        let more = self.more.get_or_insert_default();
        more.is_closed = true;
        for sub_sa in more.sub_sas.values_mut() {
            if let Some(window) = &mut sub_sa.window {
                window.close(sub_sa.top);
            }
        }
    }
}
