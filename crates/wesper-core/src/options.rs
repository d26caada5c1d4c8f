//! Options of the form that IPv6 extension headers gave them: type, length of the data, data (RFC 8200 §4.2).

/// Padding of one octet, without a length.
pub const PAD1: u8 = 0;
/// Padding of two octets or more.
pub const PADN: u8 = 1;

/// An option that is no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// All eight bits of the type.
    pub kind: u8,
    /// Octets from the field's first to the type.
    pub at: usize,
    /// Its data, without type and length.
    pub data: &'a [u8],
}

/// An option lacks its length, or reaches past the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an option reaches past the field")]
pub struct Overrun;

/// The options of a field in their order, padding left out; the first that overruns is the last.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    rest: &'a [u8],
    octets: usize,
}

impl<'a> Walk<'a> {
    /// Starts at the first octet of a field.
    #[inline]
    pub fn new(field: &'a [u8]) -> Self {
        Self { rest: field, octets: field.len() }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Tlv<'a>, Overrun>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (kind, after) = self.rest.split_first()?;
            if *kind == PAD1 {
                self.rest = after;
                continue;
            }
            let data = after.split_first().and_then(|(octets, after)| after.split_at_checked((*octets).into()));
            let Some((data, rest)) = data else {
                self.rest = &[];
                return Some(Err(Overrun));
            };
            let at = self.octets - self.rest.len();
            self.rest = rest;
            if *kind != PADN {
                return Some(Ok(Tlv { kind: *kind, at, data }));
            }
        }
    }
}

/// Octets in front of what a cipher or another header takes, put together one after another.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    octets: [u8; Self::MOST],
    len: usize,
}

impl Head {
    /// EESP's base header with the most options.
    const MOST: usize = 260;

    pub(crate) const EMPTY: Self = Self { octets: [0; Self::MOST], len: 0 };

    #[inline]
    pub(crate) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    /// Appends octets; those that have no room are left out, and no profile has so many.
    #[inline]
    pub(crate) fn push(&mut self, octets: &[u8]) {
        if let Some(place) = self.octets.get_mut(self.len..self.len + octets.len()) {
            place.copy_from_slice(octets);
            self.len += octets.len();
        }
    }

    /// Appends an option.
    #[inline]
    pub(crate) fn push_option(&mut self, kind: u8, data: &[u8]) {
        self.push(&[kind, data.len() as u8]);
        self.push(data);
    }

    /// Appends padding: one PadN for several octets, Pad1 for one.
    #[inline]
    pub(crate) fn pad(&mut self, octets: usize) {
        match octets {
            0 => (),
            1 => self.push(&[PAD1]),
            _ => {
                self.push(&[PADN, (octets - 2) as u8]);
                self.push([0; 256].get(..octets - 2).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(field: &[u8]) -> Vec<Result<(u8, usize), Overrun>> {
        Walk::new(field).map(|option| option.map(|option| (option.kind, option.data.len()))).collect()
    }

    #[test]
    fn padding_is_passed_over_and_an_overrun_ends_it() {
        assert_eq!(walk(&[]), []);
        assert_eq!(walk(&[0, 0, 0, 0]), []);
        assert_eq!(walk(&[1, 2, 0, 0, 27, 1, 9, 0]), [Ok((27, 1))]);
        assert_eq!(walk(&[27, 0, 5, 2, 1, 2]), [Ok((27, 0)), Ok((5, 2))]);
        assert_eq!(walk(&[27, 6, 1, 2]), [Err(Overrun)]);
        assert_eq!(walk(&[5, 0, 27]), [Ok((5, 0)), Err(Overrun)]);
        assert_eq!(walk(&[1, 3, 0, 0]), [Err(Overrun)]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            options in prop::collection::vec((2u8.., prop::collection::vec(any::<u8>(), 0..20)), 0..8),
            padding in 0usize..40,
        ) {
            let mut head = Head::EMPTY;
            for (kind, data) in &options {
                head.push_option(*kind, data);
            }
            head.pad(padding);
            let read: Vec<_> = Walk::new(head.octets()).map(|option| option.expect("no overrun")).collect();
            prop_assert_eq!(read.len(), options.len());
            for (read, (kind, data)) in read.iter().zip(&options) {
                prop_assert_eq!((read.kind, read.data), (*kind, &data[..]));
            }
        }

        #[test]
        fn no_octets_make_it_panic_or_run_on(field in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Walk::new(&field).count() <= field.len());
        }
    }
}
