use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::vector_file::{list, number};

/// The obvious model: a set of everything ever accepted.
struct Model {
    seen: HashSet<u64>,
    top: u64,
    window: u64,
}

impl Model {
    fn accept(&mut self, n: u64) -> bool {
        let fresh = n != 0 && (n > self.top || self.top - n < self.window) && !self.seen.contains(&n);
        if fresh {
            self.seen.insert(n);
            self.top = self.top.max(n);
        }
        fresh
    }
}

#[test]
fn replay_traces_of_the_vectors() {
    for trace in list("replay_traces") {
        let name = trace["name"].as_str().expect("a name");
        let size = number(&trace["window"]) as u32;
        let esn = trace["esn"].as_bool().expect("a flag");
        let mut window = ReplayWindow::new(size).expect("a legal window");
        let mut top = if trace["start"].is_null() { 0 } else { number(&trace["start"]) };
        for (index, step) in trace["steps"].as_array().expect("steps").iter().enumerate() {
            let sealed = number(&step["seq"]);
            let n = if esn { infer_esn(top, size, sealed as u32) } else { Some(sealed) };
            if !step["inferred_seq"].is_null() {
                assert_eq!(n, Some(number(&step["inferred_seq"])), "{name} step {index}");
            }
            // The ICV holds only if the receiver worked out the number that the sender sealed.
            let icv_good = step["icv_good"].as_bool().expect("a flag") && n == Some(sealed);
            let got = match n {
                Some(n) if !window.check(top, n).is_fresh() => "replay",
                None => "replay",
                Some(_) if !icv_good => "auth",
                Some(n) if window.accept(&mut top, n).is_fresh() => "accept",
                Some(_) => "replay",
            };
            assert_eq!(got, step["expect"], "{name} step {index}");
        }
    }
}

#[test]
fn esn_inference_of_the_vectors() {
    for (index, case) in list("esn_inference").iter().enumerate() {
        let (top, window) = (number(&case["highest"]), number(&case["window"]) as u32);
        let low = number(&case["seq_low"]) as u32;
        let high = infer_esn(top, window, low).map(|n| n >> 32);
        let expected = if case["expect_seq_high"] == "none" { None } else { Some(number(&case["expect_seq_high"])) };
        assert_eq!(high, expected, "case {index}: {case}");
    }
}

#[test]
fn sizes() {
    for good in [32, 64, 96, 1024, 1 << 20] {
        let mut window = ReplayWindow::new(good).expect("a legal window");
        assert_eq!(window.heap_octets(), 0, "nothing is allocated before the first packet");
        let mut top = 0;
        assert_eq!(window.accept(&mut top, 1), Freshness::Fresh);
        let words = window.heap_octets() / 8;
        assert!(words.is_power_of_two() && words * 64 >= good as usize + 64, "{good}: {words}");
    }
    for bad in [0, 31, 33, 48, (1 << 20) + 32] {
        assert_eq!(ReplayWindow::new(bad).err(), Some(WindowSizeError(bad)));
    }
}

#[test]
fn edges_of_the_number_space() {
    let mut window = ReplayWindow::new(64).expect("a legal window");
    let mut top = u64::MAX - 1;
    assert_eq!(window.accept(&mut top, u64::MAX), Freshness::Fresh);
    assert_eq!(window.accept(&mut top, u64::MAX), Freshness::Duplicate);
    assert_eq!(window.accept(&mut top, u64::MAX - 63), Freshness::Fresh);
    assert_eq!(window.check(top, u64::MAX - 64), Freshness::TooOld);
    assert_eq!(window.check(top, 0), Freshness::Zero);
    assert_eq!(ReplayWindow::new(64).expect("legal").check(0, 0), Freshness::Zero);
}

proptest! {
    #[test]
    fn window_equals_the_set_model(
        size in prop::sample::select(vec![32u32, 64, 96, 128, 160, 1024, 4096]),
        start in prop_oneof![Just(0u64), 0..1u64 << 40, Just(u64::MAX - 5000)],
        jumps in prop::collection::vec(-5000i64..5000, 1..300),
    ) {
        let mut window = ReplayWindow::new(size).expect("a legal window");
        let mut model = Model { seen: HashSet::new(), top: start, window: size.into() };
        let mut top = start;
        for jump in jumps {
            // Small steps are the usual case, so shrink three in four of the jumps.
            let jump = if jump % 4 == 0 { jump } else { jump % 70 };
            let n = top.saturating_add_signed(jump);
            prop_assert_eq!(window.check(top, n).is_fresh(), window.clone().accept(&mut top.clone(), n).is_fresh());
            prop_assert_eq!(window.accept(&mut top, n).is_fresh(), model.accept(n), "{} at {}", n, model.top);
            prop_assert_eq!(top, model.top);
        }
    }

    #[test]
    fn inference_finds_the_sealed_number_near_the_window(
        top in 0u64.., window in (1u32..=32_768).prop_map(|w| w * 32), offset in -2_000_000i64..2_000_000_000,
    ) {
        // Any number from the window's left edge up to (2^32 - window) ahead of it is found.
        let offset = offset.max(1 - i64::from(window));
        if let Some(n) = top.checked_add_signed(offset) {
            prop_assert_eq!(infer_esn(top, window, n as u32), Some(n));
        }
    }
}
