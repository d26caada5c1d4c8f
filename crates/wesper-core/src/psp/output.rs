//! Where packets that come out are written, one after another.

/// Memory that is written but never cleared: behind the last packet lies what was there.
#[derive(Clone, Debug, Default)]
pub struct Output {
    memory: Vec<u8>,
    end: usize,
}

impl Output {
    /// Starts anew in memory that may be left over from another batch, with room for so many octets.
    pub fn new(mut memory: Vec<u8>, octets: usize) -> Self {
        if memory.len() < octets {
            // Not resized, as the old octets are of no use; so that zeros come as fresh pages.
            memory = vec![0; octets];
        }
        Self { memory, end: 0 }
    }

    /// The packets.
    pub fn data(&self) -> &[u8] {
        self.memory.get(..self.end).unwrap_or_default()
    }

    /// Takes the memory back, and how much of it is packets. Behind them it holds what is nobody's business.
    pub fn into_memory(self) -> (Vec<u8>, usize) {
        (self.memory, self.end)
    }

    /// The next so many octets, to be written.
    #[inline(always)]
    pub(super) fn room(&mut self, octets: usize) -> &mut [u8] {
        let end = self.end + octets;
        if self.memory.len() < end {
            self.grow(end);
        }
        self.memory.get_mut(self.end..end).unwrap_or_default()
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.memory.resize(end.max(self.memory.len() / 4 * 5), 0);
    }

    /// Keeps so many octets of what was written.
    #[inline(always)]
    pub(super) fn keep(&mut self, octets: usize) {
        self.end = (self.end + octets).min(self.memory.len());
    }

    /// Octets kept so far.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.end
    }
}
