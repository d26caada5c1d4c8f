//! The outbound half: table, SPD, encapsulation (RFC 4303 §3.3).
#![allow(unused_variables, dead_code, clippy::todo, clippy::missing_const_for_fn)]

use std::net::IpAddr;
use std::sync::Arc;

use crate::batch::{Ids, Results};
use crate::events::EventQueue;
use crate::profile::{InstallError, Options, Profile, Sa, SaState};
use crate::spd::{Found, NotIp, Policy};
use crate::verdict::{CODES, DropReason};

/// First id of outbound SAs.
pub const OUTBOUND_IDS: u64 = 1 << 40;
/// Octets that must be free before a packet that is protected in place.
pub const HEADROOM: usize = 96;
/// Octets that must be free after it, and after its padding to the profile's `pad_to`.
pub const TAILROOM: usize = 64;

/// A protected packet's place in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// First octet of its IP header.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// Full sequence number.
    pub sequence: u64,
}

/// A packet that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why; its counter has been raised.
    pub reason: DropReason,
    /// With [`DropReason::OutTooBig`], the largest inner packet.
    pub mtu: usize,
}

/// The outbound half.
pub struct Sender {
    events: EventQueue,
}

#[allow(missing_docs)]
impl Sender {
    pub fn new(options: &Options) -> Self {
        todo!()
    }
    pub fn install(&mut self, profile: &Arc<Profile>, sa: &Sa<'_>, serial: u64, now: u64) -> Result<u64, InstallError> {
        todo!()
    }
    pub fn install_many(
        &mut self,
        profile: &Arc<Profile>,
        spis: &[u32],
        keys: &[u8],
        serial: u64,
        now: u64,
    ) -> Result<Vec<u64>, InstallError> {
        todo!()
    }
    pub fn remove(&mut self, sa: u64) -> bool {
        todo!()
    }
    pub fn state(&self, sa: u64) -> Option<SaState> {
        todo!()
    }
    pub fn profile(&self, sa: u64) -> Option<&Arc<Profile>> {
        todo!()
    }
    pub fn infer(&self, sa: u64, low: u32) -> Option<Option<u64>> {
        todo!()
    }
    pub fn inner_mtu(&mut self, sa: u64, now: u64) -> Option<usize> {
        todo!()
    }
    pub fn set_mtu(&mut self, sa: u64, mtu: u32, now: u64) -> bool {
        todo!()
    }
    pub fn encapsulate(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        start: usize,
        len: usize,
        now: u64,
    ) -> Result<Sealed, Dropped> {
        todo!()
    }
    pub fn encapsulate_padded(
        &mut self,
        sa: u64,
        buf: &mut [u8],
        start: usize,
        len: usize,
        tfc: &[u8],
        now: u64,
    ) -> Result<Sealed, Dropped> {
        todo!()
    }
    pub fn dummy(&mut self, sa: u64, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Sealed, Dropped> {
        todo!()
    }
    pub fn encapsulate_many(&mut self, ids: Ids<'_>, data: &[u8], offsets: &[u64], now: u64) -> Results {
        todo!()
    }
    pub fn set_policies(&mut self, policies: Vec<Policy>) {
        todo!()
    }
    pub fn look_up_policy(&self, packet: &[u8]) -> Result<Option<Found>, NotIp> {
        todo!()
    }
    pub fn deadline(&self) -> Option<u64> {
        todo!()
    }
    pub fn handle_timeout(&mut self, now: u64) {
        todo!()
    }
    pub fn drops(&self) -> &[u64; CODES] {
        todo!()
    }
    pub fn recent(&self, spi: u32, remote: IpAddr) -> Vec<(u64, u64)> {
        todo!()
    }
    pub(crate) fn events_mut(&mut self) -> &mut EventQueue {
        &mut self.events
    }
}
