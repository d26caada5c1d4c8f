//! Selectors: which packets a policy or an SA is for (RFC 4301 §4.4.1.1).

use crate::ip::{Flow, number};

/// Addresses first..=last of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// 4 or 6.
    pub version: u8,
    /// Lowest address, as a number.
    pub first: u128,
    /// Highest address, as a number.
    pub last: u128,
}

impl AddressRange {
    /// The range of one address.
    pub fn single(version: u8, address: u128) -> Self {
        Self { version, first: address, last: address }
    }

    fn holds(&self, version: u8, address: u128) -> bool {
        version == self.version && self.first <= address && address <= self.last
    }
}

/// What a selector wants of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Anything, visible or not.
    #[default]
    Any,
    /// No such field, or hidden in a fragment (RFC 4301 §4.4.1.1).
    Opaque,
    /// first..=last. ICMP: 256 x type + code (RFC 7296 §3.13.1); mobility header: 256 x MH type.
    Range(u16, u16),
}

impl Ports {
    fn hold(self, found: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Opaque => found.is_none(),
            Self::Range(first, last) => found.is_some_and(|port| first <= port && port <= last),
        }
    }

    fn exactly(port: Option<u16>) -> Self {
        port.map_or(Self::Opaque, |port| Self::Range(port, port))
    }
}

/// Which side of an SA or policy a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the protected side: local is the source.
    Outbound,
    /// From the other: local is the destination.
    Inbound,
}

/// One set of traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Empty: any address.
    pub local: Vec<AddressRange>,
    /// Empty: any address.
    pub remote: Vec<AddressRange>,
    /// Next layer; none: any.
    pub protocol: Option<u8>,
    /// Port on this side.
    pub local_ports: Ports,
    /// Port on the other side.
    pub remote_ports: Ports,
}

impl Selector {
    /// Says whether a packet's flow is in this set.
    pub fn matches(&self, flow: &Flow, way: Way) -> bool {
        let (local, remote) = match way {
            Way::Outbound => (flow.source, flow.destination),
            Way::Inbound => (flow.destination, flow.source),
        };
        let among = |ranges: &[AddressRange], address| {
            ranges.is_empty() || ranges.iter().any(|range| range.holds(flow.version, address))
        };
        let (local_port, remote_port) = local_and_remote_ports(flow, way);
        self.protocol.is_none_or(|protocol| flow.protocol == protocol)
            && among(&self.local, local)
            && among(&self.remote, remote)
            && self.local_ports.hold(local_port)
            && self.remote_ports.hold(remote_port)
    }

    /// Returns this selector with the values that `taken` names replaced by a packet's (RFC 4301 §4.4.1.2).
    pub fn narrowed(&self, flow: &Flow, taken: FromPacket) -> Self {
        let (local_port, remote_port) = local_and_remote_ports(flow, Way::Outbound);
        let single = |address| vec![AddressRange::single(flow.version, address)];
        Self {
            local: if taken.local { single(flow.source) } else { self.local.clone() },
            remote: if taken.remote { single(flow.destination) } else { self.remote.clone() },
            protocol: if taken.protocol { Some(flow.protocol) } else { self.protocol },
            local_ports: if taken.local_ports { Ports::exactly(local_port) } else { self.local_ports },
            remote_ports: if taken.remote_ports { Ports::exactly(remote_port) } else { self.remote_ports },
        }
    }
}

/// The values that an SA to be made takes from the packet: PFP flags (RFC 4301 §4.4.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromPacket {
    /// Local address.
    pub local: bool,
    /// Remote address.
    pub remote: bool,
    /// Next layer protocol.
    pub protocol: bool,
    /// Local port.
    pub local_ports: bool,
    /// Remote port.
    pub remote_ports: bool,
}

/// The two port values of a flow as selectors see them; none where OPAQUE.
fn local_and_remote_ports(flow: &Flow, way: Way) -> (Option<u16>, Option<u16>) {
    let Some((first, second)) = flow.ports else { return (None, None) };
    if matches!(flow.protocol, number::ICMP | number::ICMPV6 | number::MOBILITY) {
        let both = Some(first << 8 | second);
        return (both, both);
    }
    match way {
        Way::Outbound => (Some(first), Some(second)),
        Way::Inbound => (Some(second), Some(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: u8, ports: Option<(u16, u16)>) -> Flow {
        Flow { version: 4, source: 10, destination: 20, protocol, ports, dscp: 0 }
    }

    #[test]
    fn local_is_the_source_outbound_and_the_destination_inbound() {
        let selector = Selector {
            local: vec![AddressRange::single(4, 10)],
            remote: vec![AddressRange { version: 4, first: 15, last: 25 }],
            local_ports: Ports::Range(1, 9),
            remote_ports: Ports::Range(80, 80),
            ..Selector::default()
        };
        let out = flow(number::TCP, Some((5, 80)));
        assert!(selector.matches(&out, Way::Outbound));
        assert!(!selector.matches(&out, Way::Inbound));
        let back = Flow { source: 20, destination: 10, ports: Some((80, 5)), ..out };
        assert!(selector.matches(&back, Way::Inbound));
        assert!(!selector.matches(&Flow { version: 6, ..out }, Way::Outbound));
        assert!(!selector.matches(&Flow { ports: Some((10, 80)), ..out }, Way::Outbound));
    }

    #[test]
    fn opaque_wants_hidden_ports_and_any_takes_both() {
        let opaque = Selector { local_ports: Ports::Opaque, ..Selector::default() };
        assert!(opaque.matches(&flow(number::UDP, None), Way::Outbound));
        assert!(!opaque.matches(&flow(number::UDP, Some((1, 2))), Way::Outbound));
        let range = Selector { local_ports: Ports::Range(0, 65535), ..Selector::default() };
        assert!(!range.matches(&flow(number::UDP, None), Way::Outbound));
        assert!(Selector::default().matches(&flow(number::UDP, None), Way::Outbound));
    }

    #[test]
    fn icmp_type_and_code_stand_on_both_sides() {
        let echo = Selector {
            protocol: Some(number::ICMP),
            local_ports: Ports::Range(0x0800, 0x0800),
            remote_ports: Ports::Range(0x0800, 0x08ff),
            ..Selector::default()
        };
        for way in [Way::Outbound, Way::Inbound] {
            assert!(echo.matches(&flow(number::ICMP, Some((8, 0))), way));
            assert!(!echo.matches(&flow(number::ICMP, Some((8, 1))), way));
            assert!(!echo.matches(&flow(number::ICMPV6, Some((8, 0))), way));
        }
    }

    #[test]
    fn an_sa_to_be_made_takes_what_the_flags_name() {
        let wide = Selector { remote: vec![AddressRange { version: 4, first: 0, last: 99 }], ..Selector::default() };
        let taken = FromPacket { remote: true, protocol: true, remote_ports: true, ..FromPacket::default() };
        let narrow = wide.narrowed(&flow(number::TCP, Some((5, 80))), taken);
        assert_eq!(narrow.remote, [AddressRange::single(4, 20)]);
        assert_eq!((narrow.local, narrow.protocol), (vec![], Some(number::TCP)));
        assert_eq!((narrow.local_ports, narrow.remote_ports), (Ports::Any, Ports::Range(80, 80)));
        let hidden = wide.narrowed(&flow(number::TCP, None), taken);
        assert_eq!(hidden.remote_ports, Ports::Opaque);
    }
}
