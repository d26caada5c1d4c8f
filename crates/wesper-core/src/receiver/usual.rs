//! The usual packet's way in, in one straight line: read before its turn as far as can be, then opened.

use super::outcome::About;
use super::shape::Usual;
use super::{Hot, Receiver};
use crate::batch::Job;
use crate::eesp;
use crate::esp::{self, Input, Numbers};
use crate::ip::{IPV4_HEADER, IPV6_HEADER, number};
use crate::layout::{self, Found, Laid, Layout};
use crate::modes::Arrived;
use crate::udp;
use crate::verdict::DropReason;
use crate::wesp;

/// What is read of a packet before its turn.
#[derive(Clone, Copy)]
pub(super) struct Read {
    input: Input,
    /// The number that it is taken for, unless packets before it change that.
    sequence: u64,
    iv: u64,
    /// Of the hot state; 0: not a usual packet.
    pub(super) number: u32,
    spi: u32,
    low: u32,
    /// Octets of the packet; then those of the ciphertext.
    octets: u16,
    icv: u8,
    traffic_class: u8,
    layout: Layout,
    /// In the IP header.
    protocol: u8,
    session: u16,
}

impl Read {
    pub(super) const NONE: Self = Self {
        input: Input::EMPTY,
        sequence: 0,
        iv: 0,
        number: 0,
        spi: 0,
        low: 0,
        octets: 0,
        icv: 0,
        traffic_class: 0,
        layout: Layout::Esp,
        protocol: 0,
        session: 0,
    };
}

/// Half of the 32-bit sequence numbers.
const HALF_SPACE: u64 = 1 << 31;

/// Octets in front of the ciphertext of the usual packet: ESP's, the fewest of all.
const FRONT: usize = IPV4_HEADER + layout::Esp::FRONT;
/// WESPv2's.
const WESPV2_FRONT: usize = IPV4_HEADER + layout::WespV2::FRONT;
/// EESP's.
const EESP_FRONT: usize = IPV4_HEADER + layout::Eesp::FRONT;

impl Receiver {
    /// Reads the header of the usual packet, before its turn; of another, at most whose it probably is.
    ///
    /// Usual: right behind an IPv4 header without options, no options, SAs found by SPI alone, tunnel mode without
    /// selectors, a suite whose IV is the sequence number, the key expanded, no limit of time near, the number fresh. With
    /// [`Self::read_state`] and [`Self::open_read`] this does what [`Self::open_any`] does.
    #[inline(always)]
    pub(super) fn read_header(&self, buf: &[u8], job: &Job, read: &mut Read) {
        read.number = 0;
        let received = buf.get(job.start..).and_then(|rest| rest.get(..job.len)).unwrap_or_default();
        let Some(head) = received.first_chunk::<FRONT>() else { return };
        let octets = u16::from_be_bytes([head[2], head[3]]);
        let is_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
        if (head[0] != 0x45) | is_fragment | (usize::from(octets) > received.len()) {
            return self.fetch_state(self.index.get(unlikely_spi(received)));
        }
        (read.octets, read.traffic_class) = (octets, head[1]);
        if head[9] != esp::IP_PROTOCOL {
            return self.read_other(received, read);
        }
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *head;
        read.spi = u32::from_be_bytes([a, b, c, d]);
        read.low = u32::from_be_bytes([e, f, g, h]);
        read.iv = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        read.layout = Layout::Esp;
        read.number = self.index.get(read.spi);
    }

    /// The same behind WESPv2's header, and of EESP.
    #[inline(never)]
    fn read_other(&self, received: &[u8], read: &mut Read) {
        let Some(head) = received.first_chunk::<WESPV2_FRONT>() else { return };
        (read.protocol, read.session) = (head[9], 0);
        let [.., s, t, u, v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *head;
        let first = u32::from_be_bytes([s, t, u, v]);
        read.spi = u32::from_be_bytes([a, b, c, d]);
        if (first == esp::USUAL_WESPV2) & (read.protocol == wesp::IP_PROTOCOL) {
            read.low = u32::from_be_bytes([e, f, g, h]);
            read.iv = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
            read.layout = Layout::WespV2;
        } else if first >> 16 == eesp::USUAL_FIRST
            && read.protocol != wesp::IP_PROTOCOL
            && let Some([.., w, x, y, z]) = received.first_chunk::<EESP_FRONT>()
        {
            read.sequence = u64::from_be_bytes([e, f, g, h, i, j, k, l]);
            read.low = u32::from_be_bytes([i, j, k, l]);
            read.iv = u64::from_be_bytes([m, n, o, p, *w, *x, *y, *z]);
            (read.layout, read.session) = (Layout::Eesp, first as u16);
        } else {
            return self.fetch_state(self.index.get(unlikely_spi(received)));
        }
        read.number = self.index.get(read.spi);
    }

    /// Reads of a SA's state what can be known before the packet's turn; one that turns out not to be usual is no
    /// longer taken for such.
    #[inline(always)]
    pub(super) fn read_state(&self, read: &mut Read) {
        if self.try_read_state(read).is_none() {
            read.number = 0;
        }
    }

    #[inline(always)]
    fn try_read_state(&self, read: &mut Read) -> Option<()> {
        let hot = self.hots.get(read.number)?;
        let usual = self.profiles.shape(hot.profile)?.usual.as_ref()?;
        if (hot.id != u64::from(read.spi)) | !self.by_addresses.is_empty() {
            return None;
        }
        if (read.layout != Layout::Esp) | (usual.layout != Layout::Esp) {
            return usual.read(hot, read);
        }
        let body = usize::from(read.octets).checked_sub(FRONT + usual.icv)?;
        if (body < 8) | (body & 3 != 0) {
            return None;
        }
        read.sequence = hot.full(usual.esn, usual.inference_window, read.low)?;
        let numbers = Numbers { spi: read.spi, sequence: read.sequence, salt: hot.salt };
        read.input = usual.form.usual_input(numbers, read.iv);
        (read.octets, read.icv) = (body as u16, usual.icv as u8);
        Some(())
    }

    /// Opens what has been read; none, and nothing done, if it is not usual after all.
    #[inline(always)]
    pub(super) fn open_read(
        &mut self,
        buf: &mut [u8],
        job: &mut Job,
        read: &mut Read,
        now: u64,
    ) -> Option<Result<(), DropReason>> {
        match read.layout {
            Layout::Esp => self.open_laid::<layout::Esp>(buf, job, read, now),
            _ => self.open_laid_otherwise(buf, job, read, now),
        }
    }

    #[inline(never)]
    fn open_laid_otherwise(
        &mut self,
        buf: &mut [u8],
        job: &mut Job,
        read: &mut Read,
        now: u64,
    ) -> Option<Result<(), DropReason>> {
        match read.layout {
            Layout::Eesp => self.open_laid::<layout::Eesp>(buf, job, read, now),
            _ => self.open_laid::<layout::WespV2>(buf, job, read, now),
        }
    }

    #[inline(always)]
    fn open_laid<L: Laid>(
        &mut self,
        buf: &mut [u8],
        job: &mut Job,
        read: &mut Read,
        now: u64,
    ) -> Option<Result<(), DropReason>> {
        let number = read.number;
        let hot = self.hots.get_mut(number)?;
        let front = IPV4_HEADER + L::FRONT;
        let received = buf.get_mut(job.start..)?.get_mut(..front + usize::from(read.octets) + usize::from(read.icv))?;
        // A number that is no more than half of the 32-bit ones ahead is inferred as itself, and fresh.
        if read.sequence.wrapping_sub(hot.top).wrapping_sub(1) >= HALF_SPACE {
            hot.read_again(self.profiles.shape(hot.profile)?.usual.as_ref()?, read)?;
        }
        let sequence = read.sequence;
        let (before, rest) = received.split_at_mut_checked(front)?;
        let (body, icv) = rest.split_at_mut_checked(read.octets.into())?;
        let is_simple = !hot.life.is_due(now) & (hot.failures_in_a_row < self.settings.simple_failures);
        let context = self.store.contexts.get(hot.context_slot, number).filter(|_| is_simple)?;
        if L::open(&read.input, context, before, body, icv).is_err() {
            hot.failed();
            let session = if L::IS_NAMED { read.session } else { 0 };
            let about = About { sa: Some(hot.id), spi: hot.spi, low: read.low, session };
            return Some(Err(self.outcome.refuse(DropReason::Auth, about, received, 0, now)));
        }
        hot.failures_in_a_row = 0;
        match &mut hot.window {
            Some(window) => window.mark(&mut hot.top, sequence),
            None => hot.top = hot.top.max(sequence),
        }
        (job.sa, job.sequence) = (hot.id, sequence);
        if L::IS_NAMED {
            job.flow = read.session.into();
        }
        let shape = self.profiles.shape(hot.profile)?;
        let Found { next_header, at, octets, reason } = L::found(&shape.form, body, shape.check_padding);
        if hot.life.account(octets.unwrap_or(0), now) {
            self.any_expired |= hot.look(shape, now, &mut self.outcome.events);
        }
        let Some(inner) = octets.and_then(|octets| body.get_mut(at..at + octets)) else {
            return Some(Err(self.outcome.drop(reason)));
        };
        let arrived = Arrived { traffic_class: read.traffic_class, take_dscp: shape.take_dscp };
        Some(self.outcome.release_tunnel(arrived, job.sa, next_header, inner, now).map(|len| {
            (job.start, job.len) = (job.start + front + at, len);
        }))
    }
}

impl Usual {
    /// Reads the number of a packet that is not ESP's own, and works out what its cipher wants.
    #[inline(never)]
    fn read(&self, hot: &Hot, read: &mut Read) -> Option<()> {
        let front = match read.layout {
            Layout::Esp => return None,
            Layout::WespV2 => WESPV2_FRONT,
            Layout::Eesp => EESP_FRONT,
        };
        let body = usize::from(read.octets).checked_sub(front + self.icv)?;
        if (read.protocol != self.protocol) | (body < 8) | (body & 3 != 0) {
            return None;
        }
        if read.layout != Layout::Eesp {
            read.sequence = hot.full(self.esn, self.inference_window, read.low)?;
        } else if read.sequence == 0 {
            // It is never sent, also where there is no window (draft-ietf-ipsecme-eesp-03 §2.3.1).
            return None;
        }
        read.input = self.input(hot, read);
        (read.octets, read.icv) = (body as u16, self.icv as u8);
        Some(())
    }

    /// Returns what the cipher wants besides the body.
    #[inline(always)]
    fn input(&self, hot: &Hot, read: &Read) -> Input {
        let numbers = Numbers { spi: hot.spi, sequence: read.sequence, salt: hot.salt };
        match read.layout {
            Layout::Esp => self.form.usual_input(numbers, read.iv),
            Layout::WespV2 => self.form.usual_wespv2_input(numbers, read.iv),
            Layout::Eesp => Input::bare(hot.salt, read.iv),
        }
    }
}

impl Hot {
    /// Does over what was read of a packet that is not simply the next, as others may have come in between; none if it
    /// is not fresh.
    #[inline(never)]
    fn read_again(&self, usual: &Usual, read: &mut Read) -> Option<()> {
        if usual.layout == Layout::Eesp {
            return self.is_fresh(read.sequence).then_some(());
        }
        let sequence = self.full(usual.esn, usual.inference_window, read.low)?;
        read.sequence = Some(sequence).filter(|sequence| self.is_fresh(*sequence))?;
        read.input = usual.input(self, read);
        Some(())
    }
}

/// Returns the SPI of a packet of the usual form; that of another may be anything.
#[inline(always)]
pub(super) fn likely_spi(packet: &[u8]) -> u32 {
    let Some(head) = packet.first_chunk::<24>() else { return 0 };
    if (head[0] != 0x45) | (head[9] != esp::IP_PROTOCOL) {
        return unlikely_spi(packet);
    }
    u32::from_be_bytes([head[20], head[21], head[22], head[23]])
}

/// The same for options, IPv6 without extension headers, UDP, and the other protocols.
#[inline(never)]
fn unlikely_spi(packet: &[u8]) -> u32 {
    let (at, protocol) = match packet.first_chunk::<IPV4_HEADER>() {
        Some(head) if head[0] >> 4 == 4 => (4 * usize::from(head[0] & 15), head[9]),
        Some(head) => (IPV6_HEADER, head[6]),
        None => return 0,
    };
    let at = at
        + match protocol {
            number::UDP => udp::HEADER,
            esp::IP_PROTOCOL => 0,
            // WESPv2's without options, EESP's.
            _ => 4,
        };
    let spi = packet.get(at..at + 4).and_then(|octets| octets.first_chunk::<4>());
    spi.map_or(0, |octets| u32::from_be_bytes(*octets))
}
