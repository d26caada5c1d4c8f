//! Prints what all of ESP's work costs beside its AEAD provider alone, in one run, in turns.
//!
//! `cargo run --release -p wesper-core --example esp_speed [--features ipsec-mb] [-- ROUNDS [PROVIDER [SAS [OCTETS]]]]`

use std::error::Error;

use wesper_core::aead::Provider;
use wesper_core::bench::{Direction, EspBench, ProviderBench};
use wesper_core::suite::Suite;

const PACKETS: u64 = 65_536;
const SLOTS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(9), |text| text.parse())?;
    let only = |place: usize, value: &str| std::env::args().nth(place).is_none_or(|wanted| wanted == value);
    let suite = Suite::by_name("aes-gcm-16").ok_or("no aes-gcm-16")?;
    println!("aes-gcm-16, 128-bit; medians of {rounds}: provider ns, ESP ns, ratio; contiguous ns, ratio");
    for provider in Provider::ALL {
        for sas in [1, 1000] {
            for octets in [64, 1400] {
                let names = [provider.name().to_owned(), sas.to_string(), octets.to_string()];
                if !names.iter().zip(2..).all(|(name, place)| only(place, name)) {
                    continue;
                }
                let mut esp = EspBench::new(*provider, suite, 16, sas, SLOTS, octets)?;
                let body = esp.body_octets(suite);
                let mut alone = ProviderBench::new(*provider, suite, 16, sas, SLOTS, body)?;
                for direction in [Direction::Seal, Direction::Open] {
                    let mut times: [Vec<f64>; 3] = Default::default();
                    let mut ratios: [Vec<f64>; 2] = Default::default();
                    for _ in 0..rounds {
                        let a = alone.nanoseconds(direction, PACKETS);
                        let b = esp.nanoseconds(direction, PACKETS);
                        let c = esp.contiguous_nanoseconds(direction, PACKETS);
                        times[0].push(a);
                        times[1].push(b);
                        times[2].push(c);
                        ratios[0].push(a / b);
                        ratios[1].push(a / c);
                    }
                    let [a, b, c] = times.map(median);
                    let [ab, ac] = ratios.map(median);
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

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
