//! What an outbound SA has whose flows have names: what they are hashed with, and its Sub SAs.

use std::collections::HashMap;

use super::Hot;
use crate::flow_identifier::FlowKey;

/// What an SA has whose flows have names.
#[derive(Default)]
pub(super) struct More {
    pub(super) flow_key: Option<FlowKey>,
    /// Made with their first packets.
    pub(super) sub_sas: HashMap<u16, SubSa>,
}

/// A Sub SA (draft-ietf-ipsecme-eesp-03 §2.9).
#[derive(Clone, Copy, Default)]
pub(super) struct SubSa {
    /// The last number used.
    pub(super) sequence: u64,
    pub(super) packets: u64,
    pub(super) octets: u64,
}

impl Hot {
    pub(super) fn flow_key(&self) -> Option<&FlowKey> {
        self.more.as_ref()?.flow_key.as_ref()
    }

    pub(super) fn sub_sa(&self, id: u16) -> Option<&SubSa> {
        self.more.as_ref()?.sub_sas.get(&id)
    }

    pub(super) fn sub_sa_mut(&mut self, id: u16) -> Option<&mut SubSa> {
        self.more.as_mut()?.sub_sas.get_mut(&id)
    }

    /// The last number that a Sub SA has used, or the SA itself.
    #[inline(always)]
    pub(super) fn last_number(&self, sub_sa: Option<u16>) -> u64 {
        let found = sub_sa.and_then(|id| self.sub_sa(id));
        found.map_or(self.sequence, |sub_sa| sub_sa.sequence)
    }

    /// Notes that a number is used. The SA's own stays where it was if a Sub SA's is.
    #[inline(always)]
    pub(super) fn use_number(&mut self, sub_sa: Option<u16>, sequence: u64) {
        match sub_sa {
            None => self.sequence = sequence,
            Some(id) => self.more.get_or_insert_default().sub_sas.entry(id).or_default().sequence = sequence,
        }
    }

    /// The highest number used, of all Sub SAs.
    pub(super) fn top(&self) -> u64 {
        let sub_sas = self.more.iter().flat_map(|more| more.sub_sas.values());
        sub_sas.map(|sub_sa| sub_sa.sequence).fold(self.sequence, u64::max)
    }
}
