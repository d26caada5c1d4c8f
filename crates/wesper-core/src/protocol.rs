//! The protocols of the family: one variant each, dispatched to a module of its own.

use crate::esp;

/// What an SA speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Encapsulating Security Payload (RFC 4303).
    Esp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: &'static [Self] = &[Self::Esp];

    /// Name in vectors and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Esp => "esp",
        }
    }

    /// Finds a protocol by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| protocol.name() == name)
    }

    /// Its number in an IP header.
    #[inline]
    pub const fn ip_protocol(self) -> u8 {
        match self {
            Self::Esp => esp::IP_PROTOCOL,
        }
    }

    /// Finds a protocol by its number in an IP header.
    #[inline]
    pub fn by_ip_protocol(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| protocol.ip_protocol() == number)
    }
}
