//! Where policy sends a packet from the protected side, for a worker that knows only the usual case.

use super::Sender;
use crate::ip::{self, IPV4_HEADER, IPV6_HEADER};
use crate::profile::Mode;
use crate::selectors::Way;
use crate::spd::Action;

/// What a worker may do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Protect it with this SA. Nothing has been counted.
    Protect {
        /// The SA.
        sa: u64,
        /// Its largest packet now: one that is larger has to be cut or refused.
        mtu: usize,
        /// Octets that its profile fills packets up to.
        pad_to: usize,
    },
    /// Ask whoever handles the rare cases: no policy, BYPASS, DISCARD, no SA, a packet whose size has to be looked at.
    Ask,
}

impl Sender {
    /// Finds what policy does with a packet and its like, which differ in nothing but payload and its length.
    ///
    /// Counts nothing and raises no event: for [`Route::Ask`] that is the part of who is asked.
    pub fn route(&mut self, packet: &[u8], now: u64) -> Route {
        let Some(flow) = ip::flow(packet) else { return Route::Ask };
        let Some(policy) = self.policies.find(&flow, Way::Outbound) else { return Route::Ask };
        let Some(sa) = policy.sa_for(&flow).filter(|_| policy.action == Action::Protect) else { return Route::Ask };
        let Some(profile) = self.profile(sa) else { return Route::Ask };
        // Other modes keep the packet's own IP header: its MTU is known for the plain one alone.
        if profile.mode != Mode::Tunnel && !has_plain_header(packet) {
            return Route::Ask;
        }
        let pad_to = usize::from(profile.pad_to);
        self.inner_mtu(sa, now).map_or(Route::Ask, |mtu| Route::Protect { sa, mtu, pad_to })
    }
}

/// Says whether the IP header has neither options nor extension headers.
pub(crate) fn has_plain_header(packet: &[u8]) -> bool {
    ip::parse(packet).is_some_and(|datagram| {
        let header = if datagram.version == 4 { IPV4_HEADER } else { IPV6_HEADER };
        datagram.upper.at == header
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Options, Profile, Sa};
    use crate::spd::{DscpSet, Policy};
    use crate::suite::SuiteId;
    use crate::verdict::CODES;
    use std::sync::Arc;

    fn packet(header: u8) -> Vec<u8> {
        let octets = 4 * header + 8;
        let mut packet = vec![0x40 | header, 0, 0, octets, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.resize(octets.into(), 0);
        packet
    }

    fn sender(mode: Mode, action: Action) -> (Sender, u64) {
        let profile = Arc::new(Profile {
            mode,
            ..Profile::tunnel(SuiteId::AesGcm16, [10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        });
        let mut sender = Sender::new(&Options::new([0; 16]));
        let sa = Sa { spi: 256, key: &[1; 16], salt: &[2; 4], auth_key: &[], sequence: 0, multicast: &[], iv: None };
        let sa = sender.install(&profile, &sa, 0, 0).expect("a fine SA");
        let sas = vec![(DscpSet::ALL, sa)];
        sender.set_policies(vec![Policy { action, selectors: vec![], sas, from_packet: Default::default() }]);
        (sender, sa)
    }

    #[test]
    fn what_is_usual_goes_to_its_sa_and_the_rest_is_asked_about() {
        let (mut sender, sa) = sender(Mode::Tunnel, Action::Protect);
        let mtu = sender.inner_mtu(sa, 0).expect("an SA");
        assert_eq!(sender.route(&packet(5), 0), Route::Protect { sa, mtu, pad_to: 0 });
        assert_eq!(sender.route(&packet(6), 0), Route::Protect { sa, mtu, pad_to: 0 });
        assert_eq!(sender.route(b"not IP", 0), Route::Ask);
        sender.set_mtu(sa, 900, 0);
        let less = sender.inner_mtu(sa, 0).expect("an SA");
        assert_eq!((sender.route(&packet(5), 0), less < mtu), (Route::Protect { sa, mtu: less, pad_to: 0 }, true));
        sender.remove(sa);
        assert_eq!(sender.route(&packet(5), 0), Route::Ask);
        assert_eq!(sender.drops(), &[0; CODES]);
    }

    #[test]
    fn no_policy_but_protect_is_usual() {
        for action in [Action::Bypass, Action::Discard] {
            assert_eq!(self::sender(Mode::Tunnel, action).0.route(&packet(5), 0), Route::Ask);
        }
        let mut sender = sender(Mode::Tunnel, Action::Protect).0;
        sender.set_policies(vec![]);
        assert_eq!(sender.route(&packet(5), 0), Route::Ask);
    }

    #[test]
    fn options_are_asked_about_where_the_mode_keeps_the_header() {
        let (mut sender, sa) = sender(Mode::Transport, Action::Protect);
        assert!(matches!(sender.route(&packet(5), 0), Route::Protect { sa: found, .. } if found == sa));
        assert_eq!(sender.route(&packet(6), 0), Route::Ask);
    }
}
