//! What the way out reads of a profile, worked out once.

use std::sync::Arc;

use super::HEADROOM;
use crate::esp;
use crate::flow_identifier::{FlowKey, FlowPolicy};
use crate::form::Form;
use crate::ip::{self, Datagram, number};
use crate::layout::{self, Laid, Layout};
use crate::modes::Template;
use crate::profile::{Fragmentation, Mode, Profile};
use crate::udp;

/// What the usual packet's path reads of a profile.
pub(super) struct Usual {
    pub(super) form: esp::Form,
    pub(super) layout: Layout,
    /// EESP's Session ID.
    pub(super) session: u16,
    /// Octets in front of the payload.
    pub(super) front: usize,
    pub(super) icv: usize,
    pub(super) template: Template,
    pub(super) pad_to: usize,
}

impl Usual {
    /// None where no packet is usual.
    fn new(profile: &Profile, form: &Form, template: Option<&Template>) -> Option<Self> {
        let template = *template.filter(|_| profile.mode == Mode::Tunnel && profile.encapsulation.is_none())?;
        let inside = esp::Form::new(profile.cipher(), profile.esn);
        let (layout, front, session) = match form {
            Form::Esp(_) => (Layout::Esp, layout::Esp::FRONT, 0),
            Form::WespV2(form) if form.is_bare() && !template.is_ipv6() => (Layout::WespV2, layout::WespV2::FRONT, 0),
            Form::Eesp(form) if form.is_bare() && inside.is_combined() => match form.session {
                FlowPolicy::Fixed(session) => (Layout::Eesp, layout::Eesp::FRONT, session as u16),
                _ => return None,
            },
            _ => return None,
        };
        inside.is_usual().then(|| Self {
            form: inside,
            layout,
            session,
            front: template.len() + front,
            icv: inside.icv_octets(),
            template,
            pad_to: profile.pad_to.into(),
        })
    }
}

/// What any packet's path reads of a profile.
pub(super) struct Shape {
    /// None where no packet is usual.
    pub(super) usual: Option<Usual>,
    pub(super) profile: Arc<Profile>,
    pub(super) form: Form,
    /// The outer header of what brings none of its own, if the profile has addresses for it.
    pub(super) template: Option<Template>,
    /// Whole packets go inside.
    pub(super) is_tunnel: bool,
    /// Packets that the peer throws away can be told as such.
    pub(super) takes_dummies: bool,
    /// Octets of UDP header, 8 or 0.
    pub(super) udp: usize,
    pub(super) pad_to: usize,
    pub(super) cut_after: bool,
}

impl Shape {
    pub(super) fn new(profile: &Arc<Profile>) -> Self {
        let udp = if profile.encapsulation.is_some() { udp::HEADER } else { 0 };
        let protocol = if udp == 0 { profile.ip_protocol() } else { number::UDP };
        let template = profile.outer.as_ref().map(|outer| Template::new(outer, protocol));
        let form = Form::new(profile);
        let is_tunnel = profile.mode == Mode::Tunnel;
        Self {
            usual: Usual::new(profile, &form, template.as_ref()),
            takes_dummies: form.takes_dummies(is_tunnel),
            form,
            template,
            is_tunnel,
            udp,
            pad_to: profile.pad_to.into(),
            cut_after: profile.fragmentation == Fragmentation::After,
            profile: Arc::clone(profile),
        }
    }

    /// Octets of payload that an IP packet of `mtu` octets leaves behind an IP header of `head`.
    pub(super) fn room(&self, head: usize, version: u8, mtu: u16) -> usize {
        self.form.payload_room(version, self.udp != 0, i64::from(mtu) - (head + self.udp) as i64)
    }

    /// The room where all packets' heads are alike.
    pub(super) fn tunnel_room(&self, mtu: u16) -> u32 {
        self.template.as_ref().map_or(0, |template| self.room(template.len(), template.version(), mtu)) as u32
    }

    /// Octets in front of a payload, as many as most packets need.
    pub(super) fn tunnel_front(&self) -> usize {
        match (&self.usual, &self.template, &self.form) {
            (Some(usual), ..) => usual.front,
            (_, Some(template), Form::Esp(form)) if self.is_tunnel => template.len() + self.udp + form.front_octets(),
            _ => HEADROOM,
        }
    }

    /// Names a packet's flow, and says which Sub SA it goes by.
    #[inline]
    pub(super) fn name(&self, key: Option<&FlowKey>, packet: &[u8], is_packet: bool, mark: u32) -> Named {
        if matches!(self.form, Form::Esp(_) | Form::Wesp(_)) {
            return Named { flow: 0, sub_sa: None, datagram: None };
        }
        let datagram = if is_packet { ip::parse(packet) } else { None };
        let policy = self.form.flow_policy();
        let flow = policy.map_or(0, |policy| {
            self.form.flow(policy.identify(key, datagram.as_ref().map(|datagram| (datagram, packet)), mark))
        });
        Named { flow, sub_sa: self.form.has_sub_sas().then_some(flow as u16), datagram }
    }
}

/// What a packet's flow is called, and what its headers say.
pub(super) struct Named {
    pub(super) flow: u64,
    /// Whose numbers and keys it takes; none: the SA's.
    pub(super) sub_sa: Option<u16>,
    /// None for what is no packet, and where nobody asks.
    pub(super) datagram: Option<Datagram>,
}
