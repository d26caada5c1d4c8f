//! What the way in reads of a profile, worked out once.

use std::sync::Arc;

use crate::esp;
use crate::form::{Form, Numbering};
use crate::layout::Layout;
use crate::profile::{Mode, Profile};
use crate::sender::INFERENCE_WINDOW;

/// What the usual packet's path reads of a profile.
pub(super) struct Usual {
    pub(super) form: esp::Form,
    pub(super) layout: Layout,
    /// In the IP header: no two layouts have the same.
    pub(super) protocol: u8,
    pub(super) icv: usize,
    pub(super) inference_window: u32,
    pub(super) esn: bool,
}

impl Usual {
    /// None where no packet is usual.
    fn new(profile: &Profile, form: &Form, inference_window: u32) -> Option<Self> {
        let inside = esp::Form::new(profile.cipher(), profile.esn);
        let layout = match form {
            Form::Esp(_) => Layout::Esp,
            Form::WespV2(form) if form.is_bare() => Layout::WespV2,
            Form::Eesp(form) if form.is_bare() && inside.is_combined() => Layout::Eesp,
            _ => return None,
        };
        let is_plain = profile.encapsulation.is_none() && profile.selectors.is_empty();
        (inside.is_usual() && profile.mode == Mode::Tunnel && is_plain).then(|| Self {
            form: inside,
            layout,
            protocol: profile.ip_protocol(),
            icv: inside.icv_octets(),
            inference_window,
            esn: profile.esn,
        })
    }
}

/// What any packet's path reads of a profile.
pub(super) struct Shape {
    /// None where no packet is usual.
    pub(super) usual: Option<Usual>,
    pub(super) profile: Arc<Profile>,
    pub(super) form: Form,
    pub(super) numbering: Numbering,
    /// The window from which the high half is inferred.
    pub(super) inference_window: u32,
    pub(super) is_tunnel: bool,
    pub(super) in_udp: bool,
    pub(super) check_padding: bool,
    pub(super) take_dscp: bool,
    pub(super) may_resynchronise: bool,
}

impl Shape {
    pub(super) fn new(profile: &Arc<Profile>) -> Self {
        let form = Form::new(profile);
        let inference_window = if profile.window == 0 { INFERENCE_WINDOW } else { profile.window };
        let numbering = form.numbering();
        Self {
            usual: Usual::new(profile, &form, inference_window),
            form,
            numbering,
            inference_window,
            is_tunnel: profile.mode == Mode::Tunnel,
            in_udp: profile.encapsulation.is_some(),
            check_padding: profile.check_padding,
            take_dscp: profile.outer.is_some_and(|outer| outer.take_dscp),
            may_resynchronise: numbering == Numbering::Extended && profile.resynchronise && profile.window != 0,
            profile: Arc::clone(profile),
        }
    }

    /// Packets that a window covers; 0: none does.
    pub(super) fn window(&self) -> u32 {
        if self.numbering == Numbering::None { 0 } else { self.profile.window }
    }
}
