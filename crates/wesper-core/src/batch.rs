//! Many packets in one call: one contiguous buffer, and where each packet begins.

use std::ops::Range;

use crate::modes::HEADROOM;
use crate::verdict::{CODES, DropReason};

/// The SAs of a batch of packets.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// One for all.
    One(u64),
    /// One a packet; packets past the end of the list have none.
    Each(&'a [u64]),
}

impl Ids<'_> {
    #[inline]
    pub(crate) fn get(&self, index: usize) -> u64 {
        match self {
            Self::One(id) => *id,
            Self::Each(ids) => ids.get(index).copied().unwrap_or(0),
        }
    }
}

/// What flows are named by, for a batch of packets.
#[derive(Clone, Copy, Debug)]
pub enum Marks<'a> {
    /// One for all.
    One(u32),
    /// One a packet; packets past the end of the list have 0.
    Each(&'a [u32]),
}

impl Marks<'_> {
    #[inline]
    pub(crate) fn get(&self, index: usize) -> u32 {
        match self {
            Self::One(mark) => *mark,
            Self::Each(marks) => marks.get(index).copied().unwrap_or(0),
        }
    }
}

/// Octets that stay free before the first packet that comes out, so that each packet has something before it.
const FRONT: usize = 2 * HEADROOM;

/// Packets one after another, in memory that is written but never cleared: behind the last of them lies what was there.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    memory: Vec<u8>,
    end: usize,
}

impl Output {
    /// Starts anew in memory that may be left over from another batch, with room for so many octets.
    fn new(mut memory: Vec<u8>, octets: usize) -> Self {
        if memory.len() < FRONT + octets {
            // Not resized, as the old octets are of no use; so that zeros come as fresh pages.
            memory = vec![0; FRONT + octets];
        }
        Self { memory, end: FRONT }
    }

    /// Where the next packet begins in what [`Self::room`] returns; never less than 2 x [`HEADROOM`].
    #[inline(always)]
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// All memory, at least so many octets of it.
    #[inline(always)]
    pub(crate) fn room(&mut self, octets: usize) -> &mut [u8] {
        if self.memory.len() < octets {
            self.grow(octets);
        }
        &mut self.memory
    }

    #[cold]
    fn grow(&mut self, octets: usize) {
        self.memory.resize(octets.max(self.memory.len() / 4 * 5), 0);
    }
}

/// What became of a batch, packet by packet.
#[derive(Clone, Debug)]
pub struct Results {
    pub(crate) output: Output,
    /// n + 1 of them: packet i is `data()[offsets[i]..offsets[i + 1]]`, empty where dropped.
    pub offsets: Vec<u64>,
    /// 0 delivered, else the drop reason.
    pub codes: Vec<u8>,
    /// The SA that did the work; 0 where dropped.
    pub sas: Vec<u64>,
    /// Full sequence numbers; 0 where dropped.
    pub sequences: Vec<u64>,
    /// What flows are called, as far as the last packet whose flow has a name: most batches have none.
    named: Vec<u64>,
}

impl Results {
    /// memory: to be written to and returned by [`Self::into_memory`]; octets: what will probably be needed of it.
    pub(crate) fn new(memory: Vec<u8>, packets: usize, octets: usize) -> Self {
        let mut offsets = Vec::with_capacity(packets + 1);
        offsets.push(0);
        Self {
            output: Output::new(memory, octets),
            offsets,
            codes: Vec::with_capacity(packets),
            sas: Vec::with_capacity(packets),
            sequences: Vec::with_capacity(packets),
            named: Vec::new(),
        }
    }

    /// What came out, one packet after another.
    pub fn data(&self) -> &[u8] {
        self.output.memory.get(FRONT..self.output.end).unwrap_or_default()
    }

    /// Takes out what the packets' flows are called: EESP's Session ID, WESPv2's flow identifier, else 0; 0 where dropped.
    pub fn take_flows(&mut self) -> Vec<u64> {
        let packets = self.codes.len();
        if self.named.is_empty() {
            return vec![0; packets];
        }
        self.named.resize(packets, 0);
        std::mem::take(&mut self.named)
    }

    /// Takes the memory back, and where in it [`Self::data`] lies. Around that it holds what is nobody's business.
    pub fn into_memory(self) -> (Vec<u8>, Range<usize>) {
        (self.output.memory, FRONT..self.output.end)
    }

    /// Notes a packet whose octets have been written at the output's end.
    #[inline(always)]
    pub(crate) fn delivered(&mut self, octets: usize, sa: u64, sequence: u64, flow: u64) {
        self.output.end += octets;
        if flow != 0 {
            self.name(flow);
        }
        self.push(0, sa, sequence);
    }

    /// Notes what the next packet's flow is called.
    #[inline(never)]
    fn name(&mut self, flow: u64) {
        if self.named.is_empty() {
            self.named.reserve(self.codes.capacity());
        }
        self.named.resize(self.codes.len(), 0);
        self.named.push(flow);
    }

    /// Notes a drop.
    #[inline(always)]
    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.push(reason as u8, 0, 0);
    }

    #[inline(always)]
    fn push(&mut self, code: u8, sa: u64, sequence: u64) {
        self.offsets.push((self.output.end - FRONT) as u64);
        self.codes.push(code);
        self.sas.push(sa);
        self.sequences.push(sequence);
    }
}

/// Returns a packet of a batch; empty where the offsets do not fit the data.
#[inline]
pub(crate) fn packet<'a>(data: &'a [u8], offsets: &[u64], index: usize) -> &'a [u8] {
    let (Some(from), Some(to)) = (offsets.get(index), offsets.get(index + 1)) else { return &[] };
    data.get(*from as usize..*to as usize).unwrap_or_default()
}

/// Packets that are looked up together, so that their cache misses overlap.
pub(crate) const GROUP: usize = 32;

/// One packet in a shared buffer, to be worked on in place; afterwards, what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// To be protected: the SA. Afterwards: the SA that did the work.
    pub sa: u64,
    /// Where the packet begins.
    pub start: usize,
    /// Its octets; 0 where dropped.
    pub len: usize,
    /// Full sequence number.
    pub sequence: u64,
    /// To be protected: what flows are named by if the SA's policy says so. Afterwards: what the packet's flow is called.
    pub flow: u64,
    /// Why it was dropped; none if it was delivered.
    pub reason: Option<DropReason>,
}

impl Job {
    /// A packet to be protected or, whatever the SA, to be opened.
    pub fn new(sa: u64, start: usize, len: usize) -> Self {
        Self { sa, start, len, sequence: 0, flow: 0, reason: None }
    }

    /// Notes what became of it.
    #[inline(always)]
    pub(crate) fn end(&mut self, done: Result<(), DropReason>) {
        match done {
            Ok(()) => self.reason = None,
            Err(reason) => self.drop(reason),
        }
    }

    #[cold]
    fn drop(&mut self, reason: DropReason) {
        (self.len, self.sequence, self.reason) = (0, 0, Some(reason));
    }
}

/// How often each code has dropped a packet.
pub(crate) struct Drops(pub(crate) [u64; CODES]);

impl Drops {
    pub(crate) const fn new() -> Self {
        Self([0; CODES])
    }

    /// Counts a drop and returns its reason.
    #[cold]
    pub(crate) fn count(&mut self, reason: DropReason) -> DropReason {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
        reason
    }

    pub(crate) fn counts(&self) -> &[u64; CODES] {
        &self.0
    }
}
