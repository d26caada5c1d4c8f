//! All of ESP's work, or of another protocol's with SAs, timed in the same loop as the provider alone.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AHEAD, Direction, SLOT_OCTETS, WARM_UP};
use crate::aead::Provider;
use crate::batch::{Ids, Job, Marks};
use crate::profile::{Format, InstallError, Options, Profile, Sa};
use crate::protocol::Protocol;
use crate::receiver::Receiver;
use crate::sender::{HEADROOM, Sender, TAILROOM};
use crate::suite::Suite;
use crate::{eesp, wespv2};

/// Longest inner packet that leaves room for everything around it in a slot.
pub const MAX_INNER_OCTETS: usize = SLOT_OCTETS - HEADROOM - TAILROOM;

/// Tunnel-mode SAs from both ends, a ring of distinct buffers in one allocation, packets in batches.
///
/// What a packet costs here: look-up of its SA, lifetimes, sequence number, outer IPv4 header with checksum, ESP
/// header, IV, padding and AEAD; the other way look-up by SPI, ESN inference, window of 1024, AEAD, padding,
/// and the inner packet's header. Lifetimes have all four limits, far away.
pub struct EspBench {
    sender: Sender,
    receiver: Receiver,
    ids: Vec<u64>,
    inner: Vec<u8>,
    buffers: Vec<u8>,
    jobs: Vec<Job>,
    around: usize,
    serial: usize,
}

impl EspBench {
    /// Makes `sas` pairs of ESP SAs and `slots` buffers, at least one of each; packets take the SAs in turn.
    ///
    /// inner_octets: whole inner packets; 20 to [`MAX_INNER_OCTETS`].
    pub fn new(
        provider: Provider,
        suite: &'static Suite,
        key_octets: usize,
        sas: usize,
        slots: usize,
        inner_octets: usize,
    ) -> Result<Self, InstallError> {
        Self::of(Protocol::Esp, provider, suite, key_octets, sas, slots, inner_octets)
    }

    /// The same of any protocol, as its settings are by default: without options, nothing in the clear.
    pub fn of(
        protocol: Protocol,
        provider: Provider,
        suite: &'static Suite,
        key_octets: usize,
        sas: usize,
        slots: usize,
        inner_octets: usize,
    ) -> Result<Self, InstallError> {
        let mut options = Options::new([0x17; 16]);
        (options.provider, options.seed) = (provider, 0x2545_f491_4f6c_dd1d);
        let (local, remote): (IpAddr, IpAddr) = ([198, 51, 100, 1].into(), [203, 0, 113, 9].into());
        let mut profile = Profile { protocol, ..Profile::tunnel(suite.id, local, remote) };
        profile.format = match protocol {
            Protocol::WespV2 => Format::WespV2(wespv2::Settings::default()),
            Protocol::Eesp => Format::Eesp(eesp::Settings::default()),
            Protocol::Esp | Protocol::Wesp => Format::Plain,
        };
        for limits in [&mut profile.soft, &mut profile.hard] {
            limits.seconds = Some(1 << 32);
            limits.octets = Some(1 << 62);
            limits.packets = Some(1 << 62);
            limits.idle_seconds = Some(1 << 32);
        }
        let profile = Arc::new(profile);
        let (mut sender, mut receiver) = (Sender::new(&options), Receiver::new(&options));
        let (salt, auth_key) = (vec![9; suite.salt_octets], vec![0x5a; suite.auth_key_octets()]);
        let mut ids = Vec::new();
        for index in 0..sas.max(1) as u32 {
            let mut key = vec![0xa5; key_octets];
            key.iter_mut().zip(index.to_be_bytes()).for_each(|(octet, bits)| *octet ^= bits);
            // An odd factor is a bijection on 32 bits.
            let spi = (index + 1).wrapping_mul(0x9e37_79b1);
            let (key, salt, auth_key) = (&key[..], &salt[..], &auth_key[..]);
            let sa = Sa { spi, key, salt, auth_key, sequence: 0, multicast: &[], iv: None };
            ids.push(sender.install(&profile, &sa, index.into(), 0)?);
            receiver.install(&profile, &sa, 0)?;
        }
        let slots = slots.max(1);
        let inner = inner_packet(inner_octets.clamp(20, MAX_INNER_OCTETS));
        let jobs = ids.iter().cycle().take(slots).map(|id| Job::new(*id, 0, 0)).collect();
        let mut bench =
            Self { sender, receiver, ids, inner, buffers: vec![0; slots * SLOT_OCTETS], jobs, around: 0, serial: 0 };
        // The first rounds make hot states, expanded keys and windows.
        for _ in 0..=sas / slots {
            bench.restore();
            bench.protect();
            bench.around = bench.jobs.first().map_or(0, |job| job.len);
            bench.open();
        }
        Ok(bench)
    }

    /// Octets of a protected packet.
    pub fn protected_octets(&self) -> usize {
        self.around
    }

    /// Octets that the provider encrypts for ESP: the inner packet with its trailer.
    pub fn body_octets(&self, suite: &Suite) -> usize {
        self.around.saturating_sub(20 + 8 + suite.iv_octets + suite.icv_octets)
    }

    /// Times at least `packets` packets, in whole rounds of the ring; returns nanoseconds a packet.
    pub fn nanoseconds(&mut self, direction: Direction, packets: u64) -> f64 {
        let slots = self.jobs.len() as u64;
        let rounds = packets.div_ceil(slots).max(1);
        let spent: Duration = match direction {
            Direction::Seal => (0..rounds).map(|_| self.protect_round()).sum(),
            Direction::Open => (0..rounds.div_ceil(AHEAD)).map(|turn| self.open_rounds(rounds - turn * AHEAD)).sum(),
        };
        spent.as_nanos() as f64 / (rounds * slots) as f64
    }

    fn protect_round(&mut self) -> Duration {
        self.restore();
        let start = Instant::now();
        self.protect();
        start.elapsed()
    }

    /// Times up to [`AHEAD`] rounds of what was protected before, after some that are not timed.
    fn open_rounds(&mut self, rounds: u64) -> Duration {
        let mut protected = Vec::new();
        for _ in 0..WARM_UP + rounds.min(AHEAD) {
            self.protect_round();
            let mut ring = Vec::with_capacity(self.jobs.len() * self.around);
            self.jobs.iter().for_each(|job| ring.extend_from_slice(&self.buffers[job.start..job.start + job.len]));
            protected.push((ring, self.jobs.clone()));
        }
        let mut spent = Duration::ZERO;
        for (round, (ring, jobs)) in (0..).zip(protected) {
            self.jobs.copy_from_slice(&jobs);
            for (job, packet) in self.jobs.iter().zip(ring.chunks_exact(self.around)) {
                self.buffers[job.start..job.start + job.len].copy_from_slice(packet);
            }
            let start = Instant::now();
            self.open();
            spent += if round < WARM_UP { Duration::ZERO } else { start.elapsed() };
        }
        spent
    }

    /// Times at least `packets` packets from one contiguous buffer into another, as the Python batch calls go.
    pub fn contiguous_nanoseconds(&mut self, direction: Direction, packets: u64) -> f64 {
        let slots = self.jobs.len();
        let rounds = packets.div_ceil(slots as u64).max(1);
        let data = self.inner.repeat(slots);
        let offsets: Vec<u64> = (0..=slots).map(|index| (index * self.inner.len()) as u64).collect();
        let ids: Vec<u64> = self.ids.iter().cycle().take(slots).copied().collect();
        let (mut spent, mut memories) = (Duration::ZERO, [Vec::new(), Vec::new()]);
        for _ in 0..rounds {
            let [first, second] = memories;
            let start = Instant::now();
            let protected = self.sender.encapsulate_many(Ids::Each(&ids), Marks::One(0), &data, &offsets, NOW, first);
            let end = Instant::now();
            let second = if direction == Direction::Seal {
                spent += end - start;
                second
            } else {
                let opened = self.receiver.decapsulate_many(protected.data(), &protected.offsets, NOW, second);
                spent += end.elapsed();
                assert!(opened.data() == data, "what was protected opens");
                opened.into_memory().0
            };
            memories = [black_box(protected).into_memory().0, second];
        }
        spent.as_nanos() as f64 / (rounds * slots as u64) as f64
    }

    /// Puts fresh inner packets into the ring.
    fn restore(&mut self) {
        let ids = self.ids.iter().cycle().skip(self.serial % self.ids.len());
        self.serial += self.jobs.len();
        for (at, ((slot, job), id)) in
            self.buffers.chunks_exact_mut(SLOT_OCTETS).zip(&mut self.jobs).zip(ids).enumerate()
        {
            *job = Job::new(*id, at * SLOT_OCTETS + HEADROOM, self.inner.len());
            slot[HEADROOM..HEADROOM + self.inner.len()].copy_from_slice(&self.inner);
        }
    }

    #[inline(never)]
    fn protect(&mut self) {
        self.sender.encapsulate_batch(&mut self.jobs, &mut self.buffers, NOW);
        assert!(self.jobs.iter().all(|job| job.reason.is_none()), "what is legal is protected");
    }

    #[inline(never)]
    fn open(&mut self) {
        self.receiver.decapsulate_batch(&mut self.jobs, &mut self.buffers, NOW);
        assert!(self.jobs.iter().all(|job| job.reason.is_none()), "what was protected opens");
    }
}

/// A time, nanoseconds.
const NOW: u64 = 1_000_000_007;

/// An IPv4 packet with a UDP header and octets behind it.
pub(super) fn inner_packet(octets: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..octets).map(|index| index as u8).collect();
    let [high, low] = (octets as u16).to_be_bytes();
    packet[..20].copy_from_slice(&[0x45, 0, high, low, 0, 1, 0x40, 0, 63, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::SUITES;

    #[test]
    fn every_suite_is_timed_both_ways() {
        for suite in &SUITES {
            let key_octets = [0, 16, 32].into_iter().find(|octets| suite.takes_key_octets(*octets)).expect("a length");
            let mut bench = EspBench::new(Provider::AwsLc, suite, key_octets, 3, 8, 64).expect("installs");
            assert!(bench.body_octets(suite) >= 66);
            assert!(bench.nanoseconds(Direction::Seal, 20) > 0.0);
            assert!(bench.nanoseconds(Direction::Open, 20) > 0.0);
            assert!(bench.contiguous_nanoseconds(Direction::Seal, 20) > 0.0);
            assert!(bench.contiguous_nanoseconds(Direction::Open, 20) > 0.0);
        }
        let gcm = Suite::by_name("aes-gcm-16").expect("a suite");
        for (protocol, octets) in Protocol::ALL.iter().zip([120, 124, 124, 124]) {
            let mut bench = EspBench::of(*protocol, Provider::AwsLc, gcm, 16, 3, 8, 64).expect("installs");
            assert!(bench.nanoseconds(Direction::Seal, 20) > 0.0 && bench.nanoseconds(Direction::Open, 20) > 0.0);
            assert_eq!(bench.protected_octets(), octets, "{}", protocol.name());
        }
    }
}
