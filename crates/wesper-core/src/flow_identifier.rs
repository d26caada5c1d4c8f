//! What a flow is called on the wire: WESPv2's flow identifier, EESP's Session ID.
//!
//! The network and the receiver's workers spread packets by it, so it never changes within a flow, and it tells nothing
//! about the flow to whoever has no key.
//! Source: draft-klassert-ipsecme-wespv2-01 §2.2, draft-ietf-ipsecme-eesp-03 §2.9.

use zeroize::Zeroizing;

use crate::eesp::kdf;
use crate::ip::{Datagram, number};
use crate::siphash::SipHash;

/// Where a flow's identifier comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowPolicy {
    /// The same for all packets of the SA.
    Fixed(u64),
    /// A keyed hash of addresses, protocol and ports.
    FiveTuple,
    /// The inner packet's DSCP.
    Dscp,
    /// The same hash, over so many CPUs.
    Cpu(u32),
    /// A number that comes with each packet: a VNI, a VRF, a queue.
    Mark,
}

impl Default for FlowPolicy {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// What an SA's flows are hashed with. Has no `Debug`: it comes from the SA's key.
#[derive(Clone)]
pub struct FlowKey(Zeroizing<[u8; 16]>);

impl FlowKey {
    /// Derives it from an SA's keys; both engines and every run find the same.
    pub fn new(key: &[u8], auth_key: &[u8]) -> Self {
        let mut out = Zeroizing::new([0; 16]);
        let root = Zeroizing::new([key, auth_key].concat());
        kdf::expand_sha256(&root, b"wesper flow identifier", &mut out[..]);
        Self(out)
    }
}

impl FlowPolicy {
    /// Says whether [`Self::identify`] asks for a key.
    pub fn needs_key(self) -> bool {
        matches!(self, Self::FiveTuple | Self::Cpu(_))
    }

    /// Returns the identifier of a packet's flow; who writes it takes as many low bits as there is room for.
    ///
    /// packet: with what its headers say; none for dummies, whose tuple and class are 0. mark: the caller's.
    pub fn identify(self, key: Option<&FlowKey>, packet: Option<(&Datagram, &[u8])>, mark: u32) -> u64 {
        let hash = || match (key, packet) {
            (Some(key), Some((datagram, packet))) => hash(key, datagram, packet),
            _ => 0,
        };
        match self {
            Self::Fixed(value) => value,
            Self::FiveTuple => hash(),
            Self::Dscp => packet.map_or(0, |(datagram, _)| (datagram.traffic_class >> 2).into()),
            Self::Cpu(cpus) => hash().checked_rem(cpus.into()).unwrap_or(0),
            Self::Mark => mark.into(),
        }
    }
}

/// Hashes source, destination, protocol and ports.
///
/// Ports are 0 where the protocol has none, and in all pieces of a fragmented packet, so that they stay together.
fn hash(key: &FlowKey, datagram: &Datagram, packet: &[u8]) -> u64 {
    let addresses = match datagram.version {
        4 => packet.get(12..20),
        _ => packet.get(8..40),
    };
    let has_ports =
        matches!(datagram.upper.protocol, number::TCP | number::UDP | number::SCTP | number::DCCP | number::UDP_LITE);
    let ports = packet.get(datagram.upper.at..).and_then(<[u8]>::first_chunk::<4>);
    let ports = ports.copied().filter(|_| has_ports && !datagram.fragment).unwrap_or_default();
    let mut tuple = [0; 37];
    let addresses = addresses.unwrap_or_default();
    let parts: [&[u8]; 3] = [addresses, &[datagram.upper.protocol], &ports];
    for (place, octet) in tuple.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *octet;
    }
    SipHash::new(&key.0).all(tuple.get(..addresses.len() + 5).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip;

    #[test]
    fn each_policy_names_flows_by_its_own_field() {
        let key = FlowKey::new(&[7; 16], &[]);
        let mut packet =
            [0x45, 0xb8, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4, 0, 8, 0, 0];
        let identify = |policy: FlowPolicy, packet: &[u8], mark| {
            let datagram = ip::parse(packet).expect("IP");
            policy.identify(Some(&key), Some((&datagram, packet)), mark)
        };
        assert_eq!(identify(FlowPolicy::Fixed(9), &packet, 5), 9);
        assert_eq!(identify(FlowPolicy::Mark, &packet, 5), 5);
        assert_eq!(identify(FlowPolicy::Dscp, &packet, 5), 46);
        assert!(identify(FlowPolicy::Cpu(3), &packet, 5) < 3);
        let first = identify(FlowPolicy::FiveTuple, &packet, 5);
        packet[27] = 1;
        assert_eq!(identify(FlowPolicy::FiveTuple, &packet, 6), first, "what is behind the ports does not count");
        packet[23] = 5;
        assert_ne!(identify(FlowPolicy::FiveTuple, &packet, 5), first);
        assert_eq!(FlowPolicy::FiveTuple.identify(Some(&key), None, 5), 0);
    }
}
