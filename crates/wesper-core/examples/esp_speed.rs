//! Prints what all of ESP's work costs beside its AEAD provider alone, in one run, in turns.
//!
//! `cargo run --release -p wesper-core --example esp_speed [--features ipsec-mb] [-- ROUNDS [PROVIDER [SAS [OCTETS]]]]`

use std::error::Error;

use wesper_core::aead::Provider;
use wesper_core::bench::{Direction, EspBench, ProviderBench};
use wesper_core::suite::Suite;

/// A short slice: what else runs on a core slows some down, and seldom all.
const PACKETS: u64 = 8192;
const SLICES: usize = 10;
const SLOTS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(9), |text| text.parse())?;
    let only = |place: usize, value: &str| std::env::args().nth(place).is_none_or(|wanted| wanted == value);
    let suite = Suite::by_name("aes-gcm-16").ok_or("no aes-gcm-16")?;
    println!(
        "aes-gcm-16, 128-bit; fastest of {rounds} x {SLICES} slices: provider ns, ESP ns, ratio; contiguous ns, ratio"
    );
    for provider in Provider::ALL {
        for sas in [1, 1000] {
            for octets in [64, 1400] {
                let names = [provider.name().to_owned(), sas.to_string(), octets.to_string()];
                if !names.iter().zip(2..).all(|(name, place)| only(place, name)) {
                    continue;
                }
                let slots = SLOTS.max(sas);
                let mut esp = EspBench::new(*provider, suite, 16, sas, slots, octets)?;
                let body = esp.body_octets(suite);
                let mut alone = ProviderBench::new(*provider, suite, 16, sas, slots, body)?;
                for direction in [Direction::Seal, Direction::Open] {
                    let mut fastest = [f64::INFINITY; 3];
                    for _ in 0..rounds * SLICES {
                        let slices = [
                            alone.nanoseconds(direction, PACKETS),
                            esp.nanoseconds(direction, PACKETS),
                            esp.contiguous_nanoseconds(direction, PACKETS),
                        ];
                        fastest.iter_mut().zip(slices).for_each(|(fastest, slice)| *fastest = fastest.min(slice));
                    }
                    let [a, b, c] = fastest;
                    let [ab, ac] = [a / b, a / c];
                    println!(
                        "{:<9} {sas:>4} SAs {octets:>4} octets {direction:?}: {a:6.1} {b:6.1} {ab:.3}   {c:6.1} {ac:.3}",
                        provider.name()
                    );
                }
            }
        }
    }
    Ok(())
}
