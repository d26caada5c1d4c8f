//! The usual packet's way out, in one straight line and without a decision.

use super::protect::Inside;
use super::shape::Usual;
use super::{Hot, Sender};
use crate::aead::Context;
use crate::batch::{GROUP, Job};
use crate::esp::{Input, Numbers};
use crate::layout::{self, Laid, Layout};
use crate::modes::outer_identification;
use crate::verdict::DropReason;

/// What sealing a packet needs that is neither in it nor in its job.
#[derive(Clone, Copy)]
pub(super) struct Framed {
    input: Input,
    /// Where the expanded key is.
    slot: u32,
    /// Octets before and behind the ciphertext.
    front: u16,
    icv: u8,
    layout: Layout,
}

impl Framed {
    pub(super) const NONE: Self = Self { input: Input::EMPTY, slot: 0, front: 0, icv: 0, layout: Layout::Esp };
}

impl Sender {
    /// Seals the jobs from `first` on, which [`Self::frame_usual`] has framed.
    #[inline(always)]
    pub(super) fn seal_framed(&mut self, jobs: &mut [Job], framed: &[Framed; GROUP], first: usize, buf: &mut [u8]) {
        for (job, framed) in jobs.iter_mut().zip(framed).skip(first) {
            if self.seal_usual(framed, job, buf).is_none() {
                // Lengths and keys of installed SAs fit, so it does not come to this.
                job.end(Err(self.refuse(DropReason::OutMode).reason));
            }
        }
    }

    /// The usual packet, and nothing that needs a decision: none, and nothing done, if it is not.
    #[inline(always)]
    pub(super) fn protect_usual(&mut self, number: u32, buf: &mut [u8], job: &mut Job, now: u64) -> Option<()> {
        let mut framed = Framed::NONE;
        self.frame_usual(number, buf, job, &mut framed, now)?;
        self.seal_usual(&framed, job, buf)
    }

    /// Gives the usual packet its number and all that stands around it but the ICV; none, and nothing done, if it is
    /// another.
    ///
    /// Usual: tunnel mode, no UDP, no options, nothing in the clear, a suite whose IV is the sequence number, the key
    /// expanded, no limit near, and the packet neither too large nor to be padded. With [`Self::seal_usual`] this does
    /// what [`Self::tunnel`] does.
    #[inline(always)]
    pub(super) fn frame_usual(
        &mut self,
        number: u32,
        buf: &mut [u8],
        job: &mut Job,
        place: &mut Framed,
        now: u64,
    ) -> Option<()> {
        let hot = self.hots.get_mut(number)?;
        let usual = self.profiles.shape(hot.profile)?.usual.as_ref()?;
        let inside = Inside::of(buf.get(job.start..)?.get(..job.len)?)?;
        let payload = inside.octets;
        let is_simple = (now < hot.life.check_ns())
            & (payload <= hot.room as usize)
            & (payload >= usual.pad_to)
            & (hot.sequence < hot.last)
            & !hot.has_other_iv;
        if !is_simple || !self.store.contexts.has(hot.context_slot, number) {
            return None;
        }
        match usual.layout {
            Layout::Esp => lay::<layout::Esp>(hot, usual, inside, buf, job, place),
            _ => lay_otherwise(hot, usual, inside, buf, job, place),
        }?;
        if hot.life.account(payload, now) {
            self.look(number, now);
        }
        Some(())
    }

    /// Seals one packet; none if a length does not fit, which those of an installed SA do.
    #[inline(always)]
    fn seal_usual(&self, framed: &Framed, job: &Job, buf: &mut [u8]) -> Option<()> {
        let context = self.store.contexts.at(framed.slot)?;
        let packet = buf.get_mut(job.start..)?.get_mut(..job.len)?;
        match framed.layout {
            Layout::Esp => seal::<layout::Esp>(framed, context, packet),
            _ => seal_otherwise(framed, context, packet),
        }
    }
}

/// Writes what stands around a payload, outer header and all, and gives it its number.
#[inline(always)]
fn lay<L: Laid>(
    hot: &mut Hot,
    usual: &Usual,
    inside: Inside,
    buf: &mut [u8],
    job: &mut Job,
    place: &mut Framed,
) -> Option<()> {
    let first = job.start.checked_sub(usual.front)?;
    let body_octets = L::body_octets(inside.octets);
    let octets = usual.front + body_octets + usual.icv;
    let (front, rest) = buf.get_mut(first..)?.get_mut(..octets)?.split_at_mut_checked(usual.front)?;
    let body = rest.get_mut(..body_octets)?;
    let sequence = hot.sequence + 1;
    usual.template.write(front, octets, inside.taken, outer_identification(sequence, hot.spi));
    let numbers = Numbers { spi: hot.spi, sequence, salt: hot.salt };
    place.input = L::frame(&usual.form, numbers, usual.session, inside.next_header, inside.octets, front, body)?;
    hot.sequence = sequence;
    (job.start, job.len, job.sequence, job.flow) = (first, octets, sequence, usual.session.into());
    (place.slot, place.layout) = (hot.context_slot, usual.layout);
    (place.front, place.icv) = (usual.front as u16, usual.icv as u8);
    Some(())
}

#[inline(never)]
fn lay_otherwise(
    hot: &mut Hot,
    usual: &Usual,
    inside: Inside,
    buf: &mut [u8],
    job: &mut Job,
    place: &mut Framed,
) -> Option<()> {
    match usual.layout {
        Layout::Eesp => lay::<layout::Eesp>(hot, usual, inside, buf, job, place),
        _ => lay::<layout::WespV2>(hot, usual, inside, buf, job, place),
    }
}

#[inline(always)]
fn seal<L: Laid>(framed: &Framed, context: &Context, packet: &mut [u8]) -> Option<()> {
    let text = packet.len().checked_sub(framed.icv.into())?;
    let (text, icv) = packet.split_at_mut_checked(text)?;
    let (front, body) = text.split_at_mut_checked(framed.front.into())?;
    L::seal(&framed.input, context, front, body, icv).ok()
}

#[inline(never)]
fn seal_otherwise(framed: &Framed, context: &Context, packet: &mut [u8]) -> Option<()> {
    match framed.layout {
        Layout::Eesp => seal::<layout::Eesp>(framed, context, packet),
        _ => seal::<layout::WespV2>(framed, context, packet),
    }
}
