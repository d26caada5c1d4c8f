use proptest::prelude::*;

use super::*;
use crate::aead::Provider;
use crate::suite::SUITES;

fn context(suite: &Suite) -> Context {
    let key_octets = [0, 16, 32].into_iter().find(|octets| suite.takes_key_octets(*octets)).expect("a length");
    Context::new(Provider::AwsLc, suite, &vec![7; key_octets], &vec![9; suite.auth_key_octets()]).expect("fits")
}

const NUMBERS: Numbers = Numbers { spi: 0x1234_5678, sequence: 0x0000_0003_9abc_def0, salt: [1, 2, 3, 4] };

/// A sealed packet with a payload of this length, in its frame.
fn sealed(form: &Form, context: &Context, payload: usize) -> Vec<u8> {
    let mut frame = vec![0x77; form.octets_around(payload, 0)];
    frame[form.front_octets()..form.front_octets() + payload].fill(0x42);
    form.seal(context, NUMBERS, (form.iv() == Iv::Block).then_some([5; 16]), 4, payload, Wrap::NONE, &mut frame)
        .expect("fits");
    frame
}

#[test]
fn every_suite_seals_whole_blocks_and_opens_them_again() {
    for suite in &SUITES {
        for esn in [false, true] {
            let (form, context) = (Form::new(suite, esn), context(suite));
            for payload in 0..40 {
                let mut frame = sealed(&form, &context, payload);
                let what = format!("{suite}, esn {esn}, {payload} octets");
                let arrived = form.read(&frame, 0, 0).expect(&what);
                assert!(payload <= form.inner_mtu(frame.len() as i64), "{what}");
                assert!(form.inner_mtu(frame.len() as i64 - 1) < payload.max(1), "{what}");
                assert_eq!(locate(&frame), Some((NUMBERS.spi, NUMBERS.sequence as u32)), "{what}");
                form.open(&context, NUMBERS, Wrap::NONE, &mut frame).expect(&what);
                let content = form.content(&arrived, &frame, true).expect(&what);
                assert_eq!((content.next_header, content.octets), (4, payload), "{what}");
                assert!(frame[content.at..][..payload].iter().all(|octet| *octet == 0x42), "{what}");
            }
        }
    }
}

#[test]
fn a_packet_with_another_high_half_does_not_open_under_esn() {
    for suite in &SUITES {
        for esn in [false, true] {
            let (form, context) = (Form::new(suite, esn), context(suite));
            let mut frame = sealed(&form, &context, 20);
            let other = Numbers { sequence: NUMBERS.sequence + (1 << 32), ..NUMBERS };
            assert_eq!(form.open(&context, other, Wrap::NONE, &mut frame).is_err(), esn, "{suite}");
        }
    }
}

#[test]
fn the_usual_way_makes_the_same_octets() {
    let mut run = 0;
    for suite in &SUITES {
        for esn in [false, true] {
            let (form, context) = (Form::new(suite, esn), context(suite));
            if !form.is_usual() {
                continue;
            }
            for payload in 6..40 {
                let expected = sealed(&form, &context, payload);
                let mut frame = vec![0x42; expected.len()];
                let (front, rest) = frame.split_first_chunk_mut().expect("long enough");
                let (body, icv) = rest.split_at_mut(Form::usual_body(payload));
                Form::frame_usual(NUMBERS, 4, payload, front, body).expect("fits");
                let input = form.usual_input(NUMBERS, NUMBERS.sequence);
                input.seal(&context, body, icv).expect("fits");
                input.open(&context, &mut body.to_vec(), icv).expect("holds");
                assert_eq!(frame, expected, "{suite}, esn {esn}, {payload} octets");
            }
            run += 1;
        }
    }
    assert_eq!(run, 10, "GCM with three ICVs, ChaCha20-Poly1305 and GMAC, with and without ESN");
}

#[test]
fn lengths_that_can_not_be_are_refused() {
    let gcm = Form::new(Suite::by_name("aes-gcm-16").expect("a suite"), true);
    assert_eq!(
        [31, 35, 36, 37, 40].map(|octets| gcm.read(&[0; 80][..octets], 0, 0).is_ok()),
        [false, false, true, false, true]
    );
    let cbc = Form::new(Suite::by_name("aes-cbc+hmac-sha2-256-128").expect("a suite"), true);
    assert_eq!(
        [40, 55, 56, 60, 72].map(|octets| cbc.read(&[0; 80][..octets], 0, 0).is_ok()),
        [false, false, true, false, true]
    );
    assert_eq!((gcm.inner_mtu(-500), gcm.inner_mtu(35), gcm.inner_mtu(36)), (0, 0, 2));
    assert_eq!(locate(&[0; 7]), None);
}

proptest! {
    #[test]
    fn the_usual_trailer_is_the_trailer(mut plaintext in prop::collection::vec(any::<u8>(), 0..24), pad in 0u8..6) {
        if let Some(place) = plaintext.iter().len().checked_sub(2) {
            plaintext[place] = pad;
        }
        if let Some(found) = usual_trailer(&plaintext) {
            prop_assert_eq!(found, trailer(&plaintext, true));
            prop_assert_eq!(found, trailer(&plaintext, false));
        } else if plaintext.len() >= 8 && pad < 4 {
            prop_assert_eq!(trailer(&plaintext, true).1, None);
        }
    }
}
