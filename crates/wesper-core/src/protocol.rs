//! The protocols of the family: one variant each, dispatched to a module of its own.

use crate::form::Located;
use crate::verdict::DropReason;
use crate::{eesp, esp, wesp, wespv2};

/// What an SA speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Encapsulating Security Payload (RFC 4303).
    Esp,
    /// Wrapped ESP (RFC 5840).
    Wesp,
    /// Wrapped ESP, version 2 (draft-klassert-ipsecme-wespv2-01).
    WespV2,
    /// Enhanced ESP (draft-ietf-ipsecme-eesp-03).
    Eesp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: &'static [Self] = &[Self::Esp, Self::Wesp, Self::WespV2, Self::Eesp];

    /// Name in vectors and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Esp => "esp",
            Self::Wesp => "wesp",
            Self::WespV2 => "wespv2",
            Self::Eesp => "eesp",
        }
    }

    /// Finds a protocol by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| protocol.name() == name)
    }

    /// Its number in an IP header; EESP's where its settings do not say another.
    #[inline]
    pub const fn ip_protocol(self) -> u8 {
        match self {
            Self::Esp => esp::IP_PROTOCOL,
            Self::Wesp | Self::WespV2 => wesp::IP_PROTOCOL,
            Self::Eesp => eesp::IP_PROTOCOL,
        }
    }

    /// Reads what stands at fixed places of a packet, without an SA.
    ///
    /// body: from the protocol's first octet. Drops: TruncatedHeader, NotEesp, BadVersion, BadReserved, BadOptlen.
    #[inline]
    pub fn locate(self, body: &[u8]) -> Result<Located, DropReason> {
        match self {
            Self::Esp => {
                let (spi, low) = esp::locate(body).ok_or(DropReason::TruncatedHeader)?;
                Ok(Located { spi, low, flow: 0 })
            }
            Self::Wesp => wesp::locate(body),
            Self::WespV2 => wespv2::locate(body),
            Self::Eesp => eesp::locate(body),
        }
    }
}
