//! Prints what the lower half of the native engine costs here: providers, look-ups, installs, memory.
//!
//! `cargo run --release -p wesper-core --example core_speed [--features ipsec-mb] [-- SAS [providers|memory|lookups]]`

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use wesper_core::aead::Provider;
use wesper_core::bench::{Direction, LookupBench, Probe, ProviderBench, expand_nanoseconds, filled_table};
use wesper_core::sad::Inbound;
use wesper_core::suite::Suite;

const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let sas = std::env::args().nth(1).map_or(Ok(10_000_000), |text| text.parse())?;
    let part = std::env::args().nth(2);
    let wanted = |name| part.as_deref().is_none_or(|part| part == name);
    if wanted("providers") {
        providers()?;
    }
    if wanted("memory") {
        memory(sas)?;
    }
    if wanted("lookups") {
        lookups(sas)?;
    }
    Ok(())
}

/// Nanoseconds a packet, medians; the providers take turns.
fn providers() -> Result<(), Box<dyn Error>> {
    let gcm = Suite::by_name("aes-gcm-16").ok_or("no aes-gcm-16")?;
    println!("aes-gcm-16, ns a packet        octets  1 key: seal    open  1000 keys: seal    open  expand");
    for (key_octets, octets) in [(16, 64), (16, 1400), (32, 64), (32, 1400)] {
        let mut rows: Vec<[Vec<f64>; 5]> = Provider::ALL.iter().map(|_| Default::default()).collect();
        for _ in 0..ROUNDS {
            for (provider, row) in Provider::ALL.iter().zip(&mut rows) {
                let mut one = ProviderBench::new(*provider, gcm, key_octets, 1, 256, octets)?;
                let mut many = ProviderBench::new(*provider, gcm, key_octets, 1000, 1000, octets)?;
                one.nanoseconds(Direction::Open, 5_000);
                row[0].push(one.nanoseconds(Direction::Seal, 100_000));
                row[1].push(one.nanoseconds(Direction::Open, 100_000));
                many.nanoseconds(Direction::Open, 5_000);
                row[2].push(many.nanoseconds(Direction::Seal, 100_000));
                row[3].push(many.nanoseconds(Direction::Open, 100_000));
                row[4].push(expand_nanoseconds(*provider, gcm, key_octets, 20_000)?);
            }
        }
        for (provider, row) in Provider::ALL.iter().zip(rows) {
            let [seal, open, seal_many, open_many, expand] = row.map(median);
            let name = format!("{}, {}-bit", provider.name(), key_octets * 8);
            println!(
                "  {name:<28} {octets:>6}  {seal:>11.1} {open:>7.1}  {seal_many:>15.1} {open_many:>7.1} {expand:>7.1}"
            );
        }
    }
    Ok(())
}

/// Resident growth of idle SAs: in bulk, and at its worst while they come one by one.
fn memory(sas: usize) -> Result<(), Box<dyn Error>> {
    let before = resident_octets()?;
    let (table, spis) = filled_table(sas, 0x1f2e_3d4c_5b6a_7989)?;
    drop(spis);
    let grown = resident_octets()?.saturating_sub(before);
    println!("{sas} idle SAs in bulk: {:.1} octets each, {:.2} GiB", grown as f64 / sas as f64, grown as f64 / GIB);
    let rows: Vec<_> = table.iter().take(sas / 2).map(|row| row.without_key()).collect();
    drop(table);
    let before = resident_octets()?;
    let mut table = Inbound::new(7);
    let (mut worst, mut pause, mut spent) = (0.0f64, Duration::ZERO, Duration::ZERO);
    let count = rows.len();
    for (index, row) in rows.into_iter().enumerate() {
        let start = Instant::now();
        table.install(row)?;
        let one = start.elapsed();
        (pause, spent) = (pause.max(one), spent + one);
        if index % 20_000 == 19_999 && index >= 100_000 {
            worst = worst.max(resident_octets()?.saturating_sub(before) as f64 / (index + 1) as f64);
        }
    }
    let each = spent.as_nanos() as f64 / count as f64;
    println!("{count} one by one: at worst {worst:.1} octets each, {each:.0} ns each, longest pause {pause:?}");
    Ok(())
}

const GIB: f64 = (1u64 << 30) as f64;

fn lookups(sas: usize) -> Result<(), Box<dyn Error>> {
    let mut bench = LookupBench::new(sas, 0x0123_4567_89ab_cdef)?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (times, probe) in times.iter_mut().zip([Probe::Table].into_iter().chain(Probe::BARE)) {
            times.push(bench.nanoseconds(probe));
        }
    }
    let [table, first_rows, staged] = times.map(median);
    println!(
        "{sas} SAs at load {:.2}: install {:.0} ns; look-up {table:.1} ns ({:.1} M/s), bare probe, first rows \
         first {first_rows:.1} ns, in stages {staged:.1} ns; ratio {:.2}",
        bench.load(),
        bench.install_nanoseconds(),
        1e3 / table,
        first_rows.min(staged) / table,
    );
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Resident set of this process; the second number of `/proc/self/statm`, in pages of 4 KiB.
fn resident_octets() -> Result<u64, Box<dyn Error>> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    Ok(statm.split(' ').nth(1).ok_or("no resident size")?.parse::<u64>()? * 4096)
}
