//! The timed loops of `wesper_core::bench`, so that all figures come out of one binary. The GIL is released in them.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use wesper_core::aead::Provider;
use wesper_core::bench as core;
use wesper_core::protocol::Protocol;
use wesper_core::psp::Version;
use wesper_core::sad::Inbound;
use wesper_core::suite::Suite;

fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn provider_of(name: &str) -> PyResult<Provider> {
    Provider::by_name(name).ok_or_else(|| refused(format_args!("this build has no provider {name:?}")))
}

fn suite_of(name: &str) -> PyResult<&'static Suite> {
    Suite::by_name(name).ok_or_else(|| refused(format_args!("there is no suite {name:?}")))
}

fn direction_of(name: &str) -> PyResult<core::Direction> {
    match name {
        "seal" => Ok(core::Direction::Seal),
        "open" => Ok(core::Direction::Open),
        _ => Err(refused(format_args!("{name:?} is neither seal nor open"))),
    }
}

/// A provider alone: a ring of distinct buffers, keys ready, 8 octets of associated data.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct ProviderBench(Mutex<core::ProviderBench>);

#[pymethods]
impl ProviderBench {
    #[new]
    fn new(
        provider: &str,
        suite: &str,
        key_octets: usize,
        keys: usize,
        slots: usize,
        body_octets: usize,
    ) -> PyResult<Self> {
        let (provider, suite) = (provider_of(provider)?, suite_of(suite)?);
        let bench = core::ProviderBench::new(provider, suite, key_octets, keys, slots, body_octets).map_err(refused)?;
        Ok(Self(Mutex::new(bench)))
    }

    /// Return nanoseconds a packet.   direction: seal or open.
    fn nanoseconds(&self, py: Python<'_>, direction: &str, packets: u64) -> PyResult<f64> {
        let direction = direction_of(direction)?;
        Ok(py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).nanoseconds(direction, packets)))
    }
}

/// All of ESP's work, or another protocol's: SAs from both ends, a ring of distinct buffers, packets in batches.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct EspBench(Mutex<core::EspBench>);

#[pymethods]
impl EspBench {
    #[new]
    #[pyo3(signature = (provider, suite, key_octets, sas, slots, inner_octets, protocol = "esp"))]
    fn new(
        provider: &str,
        suite: &str,
        key_octets: usize,
        sas: usize,
        slots: usize,
        inner_octets: usize,
        protocol: &str,
    ) -> PyResult<Self> {
        let (provider, suite) = (provider_of(provider)?, suite_of(suite)?);
        let protocol =
            Protocol::by_name(protocol).ok_or_else(|| refused(format_args!("there is no protocol {protocol:?}")))?;
        let bench = core::EspBench::of(protocol, provider, suite, key_octets, sas, slots, inner_octets);
        let bench = bench.map_err(refused)?;
        Ok(Self(Mutex::new(bench)))
    }

    /// Return nanoseconds a packet.   direction: seal or open.
    fn nanoseconds(&self, py: Python<'_>, direction: &str, packets: u64) -> PyResult<f64> {
        let direction = direction_of(direction)?;
        Ok(py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).nanoseconds(direction, packets)))
    }
}

/// Return nanoseconds to expand one key.
#[pyfunction]
pub(crate) fn expand_nanoseconds(
    py: Python<'_>,
    provider: &str,
    suite: &str,
    key_octets: usize,
    keys: u64,
) -> PyResult<f64> {
    let (provider, suite) = (provider_of(provider)?, suite_of(suite)?);
    py.detach(|| core::expand_nanoseconds(provider, suite, key_octets, keys)).map_err(refused)
}

/// A table of SAs beside a bare probe of the same rows.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct LookupBench(Mutex<core::LookupBench>);

#[pymethods]
impl LookupBench {
    #[new]
    fn new(py: Python<'_>, sas: usize, seed: u64) -> PyResult<Self> {
        Ok(Self(Mutex::new(py.detach(|| core::LookupBench::new(sas, seed)).map_err(refused)?)))
    }

    /// Return nanoseconds that one of the installs took, done in bulk.
    fn install_nanoseconds(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).install_nanoseconds()
    }

    /// Return nanoseconds a look-up: of the table, in batches, over all SPIs at random.
    fn table_nanoseconds(&self, py: Python<'_>) -> f64 {
        py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).nanoseconds(core::Probe::Table))
    }

    /// Return nanoseconds a look-up: of the bare probe, the fastest of its forms.
    fn bare_nanoseconds(&self, py: Python<'_>) -> f64 {
        py.detach(|| {
            let mut bench = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            core::Probe::BARE.map(|probe| bench.nanoseconds(probe)).into_iter().fold(f64::INFINITY, f64::min)
        })
    }
}

/// A table of idle SAs, to be weighed.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct TableBench(Inbound);

#[pymethods]
impl TableBench {
    #[new]
    fn new(py: Python<'_>, sas: usize, seed: u64) -> PyResult<Self> {
        py.detach(|| core::filled_table(sas, seed)).map(|(table, _)| Self(table)).map_err(refused)
    }

    /// Return how many SAs there are.
    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// Return the octets that the table has allocated.
    fn heap_octets(&self) -> usize {
        self.0.heap_octets()
    }
}

/// Return nanoseconds a block of AES-256 with nothing around it, as fast as this processor can.
#[pyfunction]
pub(crate) fn bare_block_nanoseconds(py: Python<'_>, blocks: usize) -> f64 {
    py.detach(|| core::bare_block_nanoseconds(blocks))
}

/// A provider that expands a key for each packet: a ring of distinct buffers and keys, 16 octets of associated data.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct FreshBench(Mutex<core::FreshBench>);

#[pymethods]
impl FreshBench {
    #[new]
    fn new(provider: &str, key_octets: usize, slots: usize, body_octets: usize) -> PyResult<Self> {
        let bench = core::FreshBench::new(provider_of(provider)?, key_octets, slots, body_octets).map_err(refused)?;
        Ok(Self(Mutex::new(bench)))
    }

    /// Return nanoseconds a packet.
    fn nanoseconds(&self, py: Python<'_>, direction: &str, packets: u64) -> PyResult<f64> {
        let direction = direction_of(direction)?;
        Ok(py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).nanoseconds(direction, packets)))
    }
}

/// All of PSP's work: a table of associations, a stateless receiver, packets in batches.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct PspBench(Mutex<core::PspBench>);

#[pymethods]
impl PspBench {
    #[new]
    fn new(
        py: Python<'_>,
        provider: &str,
        version: u8,
        associations: usize,
        slots: usize,
        inner_octets: usize,
    ) -> PyResult<Self> {
        let provider = provider_of(provider)?;
        let version = Version::of(version).ok_or_else(|| refused(format_args!("PSP has no version {version}")))?;
        let make = || core::PspBench::new(provider, version, associations, slots, inner_octets);
        Ok(Self(Mutex::new(py.detach(make))))
    }

    /// Return nanoseconds a packet.
    fn nanoseconds(&self, py: Python<'_>, direction: &str, packets: u64) -> PyResult<f64> {
        let direction = direction_of(direction)?;
        Ok(py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).nanoseconds(direction, packets)))
    }

    /// Return the octets of the table's rows.
    fn table_octets(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).table_octets()
    }
}
