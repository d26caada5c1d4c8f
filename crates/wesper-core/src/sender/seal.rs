//! What stands around any payload, worked out, and sealed with the key that the packet has.

use aes::cipher::BlockCipherEncrypt;

use super::protect::Inside;
use super::shape::{Named, Shape};
use super::{Hot, Store, expand};
use crate::aead::Context;
use crate::crypt_offset::Shown;
use crate::derived::{Derived, derive};
use crate::esp::{Numbers, Wrap};
use crate::form::{Form, KeyOf, Outgoing, Plan};

impl Shape {
    /// Works out what stands around a payload; none for ESP, where nothing depends on the packet.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "it is one packet, and every argument is another part of it")]
    pub(super) fn plan(
        &self,
        spi: u32,
        named: &Named,
        buf: &[u8],
        start: usize,
        inside: Inside,
        payload: usize,
        version: u8,
    ) -> Option<Plan> {
        if matches!(self.form, Form::Esp(_)) {
            return None;
        }
        let packet = buf.get(start..start + inside.octets).unwrap_or_default();
        // What TFC padding there is, is behind the packet.
        let own = if self.is_tunnel { inside.octets } else { payload };
        let shown = named.datagram.as_ref().map(|datagram| Shown { datagram, packet, payload: own });
        let (flow, next_header, in_udp) = (named.flow, inside.next_header, self.udp != 0);
        Some(self.form.plan(&Outgoing { spi, flow, next_header, payload, shown, version, in_udp }))
    }

    /// Octets in front of a payload, and of all, from the protocol's first on.
    #[inline(always)]
    pub(super) fn octets(&self, plan: Option<&Plan>, payload: usize) -> (usize, usize) {
        match (plan, &self.form) {
            (Some(plan), _) => (plan.front, plan.octets),
            (None, Form::Esp(form)) => (form.front_octets(), form.octets_around(payload, 0)),
            (None, _) => (0, 0),
        }
    }
}

/// What is sealed, and how.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) next_header: u8,
    pub(super) payload: usize,
    pub(super) named: &'a Named,
    pub(super) plan: Option<&'a Plan>,
}

impl Store {
    /// Seals a packet under this number, and notes that it is used; none if there is no key, which no installed SA lacks.
    ///
    /// frame: from the protocol's first octet, or UDP's marker, to the end of the ICV, the payload in its place.
    #[inline(always)]
    pub(super) fn seal(
        &mut self,
        number: u32,
        hot: &mut Hot,
        shape: &Shape,
        sequence: u64,
        content: Content<'_>,
        frame: &mut [u8],
    ) -> Option<()> {
        let iv = if hot.has_other_iv { self.other_iv(hot, sequence) } else { None };
        hot.use_number(content.named.sub_sa, sequence);
        let key = shape.form.key_of(hot.spi, sequence, content.named.flow);
        if key != KeyOf::Sa {
            let derived = self.derived(number, hot.row, shape, key)?;
            let numbers = Numbers { spi: hot.spi, sequence, salt: derived.salt };
            return seal(shape, &derived.context, numbers, iv, content, frame);
        }
        let context = match self.contexts.get(hot.context_slot, number) {
            Some(context) => context,
            None => {
                hot.context_slot = self.expand(number, hot.row, shape)?;
                self.contexts.get(hot.context_slot, number)?
            }
        };
        seal(shape, context, Numbers { spi: hot.spi, sequence, salt: hot.salt }, iv, content, frame)
    }

    /// Returns a key that is derived, and keeps it.
    fn derived(&mut self, number: u32, row: u32, shape: &Shape, key: KeyOf) -> Option<&Derived> {
        if self.derived.get(number, key).is_none() {
            let root = self.extras.get(row)?.key();
            let derived = derive(self.provider, &shape.profile, root, key)?;
            self.derived.insert(number, key, derived);
        }
        self.derived.get(number, key)
    }

    /// The IV of the next packet of an SA whose IV is not its sequence number.
    #[cold]
    fn other_iv(&self, hot: &Hot, sequence: u64) -> Option<[u8; 16]> {
        if let Some(fixed) = self.extras.get(hot.row).and_then(|extra| extra.fixed_iv) {
            return Some(fixed);
        }
        // RFC 3602 §3: unpredictable; a counter under a key of its own is (NIST SP 800-38A appendix C).
        let mut block = (u128::from(hot.id) << 64 | u128::from(sequence)).to_be_bytes().into();
        self.iv_cipher.encrypt_block(&mut block);
        Some(block.into())
    }

    #[cold]
    fn expand(&mut self, number: u32, row: u32, shape: &Shape) -> Option<u32> {
        let context = expand(self.provider, &shape.profile, self.table.row(row)?, self.extras.get(row))?;
        Some(self.contexts.insert(number, context))
    }
}

#[inline(always)]
fn seal(
    shape: &Shape,
    context: &Context,
    numbers: Numbers,
    iv: Option<[u8; 16]>,
    content: Content<'_>,
    frame: &mut [u8],
) -> Option<()> {
    let Content { next_header, payload, plan, .. } = content;
    match (plan, &shape.form) {
        (Some(plan), form) => form.seal(context, numbers, iv, next_header, payload, plan, frame),
        (None, Form::Esp(form)) => form.seal(context, numbers, iv, next_header, payload, Wrap::NONE, frame),
        (None, _) => return None,
    }
    .ok()
}
