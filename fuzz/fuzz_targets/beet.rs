//! Any octets as a BEET pseudo header in front of a payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wesper_core::modes::PseudoHeader;

fuzz_target!(|body: &[u8]| {
    assert_eq!(PseudoHeader::parse(body, false), None, "options belong to IPv4");
    let Some(pseudo) = PseudoHeader::parse(body, true) else { return };
    assert!(pseudo.octets <= body.len() && pseudo.octets % 8 == 0);
    assert!(pseudo.options.len() <= 40 && pseudo.options.len() % 4 == 0);
    assert_eq!(pseudo.next_header, body[0]);
});
