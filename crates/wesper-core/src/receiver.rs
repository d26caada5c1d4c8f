//! The inbound half: table, decapsulation, SPD-I (RFC 4303 §3.4).
#![allow(unused_variables, dead_code, clippy::todo, clippy::missing_const_for_fn)]

use std::sync::Arc;

use crate::batch::Results;
use crate::events::EventQueue;
use crate::profile::{InstallError, Options, Profile, Sa, SaState};
use crate::spd::{Found, NotIp, Policy};
use crate::verdict::{CODES, DropReason};

/// First id of multicast SAs; below it ids are SPIs.
pub const MULTICAST_IDS: u64 = 1 << 32;

/// An opened packet's place in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// First octet of its IP header.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// Id of the SA.
    pub sa: u64,
    /// Full sequence number.
    pub sequence: u64,
}

/// The inbound half.
pub struct Receiver {
    events: EventQueue,
}

#[allow(missing_docs)]
impl Receiver {
    pub fn new(options: &Options) -> Self {
        todo!()
    }
    pub fn install(&mut self, profile: &Arc<Profile>, sa: &Sa<'_>, now: u64) -> Result<u64, InstallError> {
        todo!()
    }
    pub fn install_multicast(
        &mut self,
        profile: &Arc<Profile>,
        sa: &Sa<'_>,
        serial: u64,
        now: u64,
    ) -> Result<u64, InstallError> {
        todo!()
    }
    pub fn install_many(
        &mut self,
        profile: &Arc<Profile>,
        spis: &[u32],
        keys: &[u8],
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
    pub fn find(&self, spis: &[u32], ids: &mut [u64]) {
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
    pub fn decapsulate(&mut self, buf: &mut [u8], start: usize, len: usize, now: u64) -> Result<Opened, DropReason> {
        todo!()
    }
    pub fn decapsulate_many(&mut self, data: &[u8], offsets: &[u64], now: u64) -> Results {
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
    pub fn count(&mut self, reason: DropReason) {
        todo!()
    }
    pub(crate) fn events_mut(&mut self) -> &mut EventQueue {
        &mut self.events
    }
}
