//! PSP as Python sees it. Batches release the GIL.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};
use wesper_core::aead::Provider;
use wesper_core::batch::Ids;
use wesper_core::psp::engine::{self as core, Received, Sent};
use wesper_core::psp::guard::Guard;
use wesper_core::psp::kdf::{self, DEVICE_KEY_OCTETS};
use wesper_core::psp::table::{self, Ivs, Limits};
use wesper_core::psp::{DeviceKey, Mode, Output, Prepared, Profile, SourcePort, Version};

use wesper_core::verdict::DropReason;

use crate::ffi::{Array, Fillable, Input};
use crate::pool::{Lease, Pool};
use crate::profiles::{outer, unknown, value_of};

fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn version_of(code: u8) -> PyResult<Version> {
    Version::of(code).ok_or_else(|| refused(format_args!("PSP has no version {code}")))
}

/// Return the key of one SPI under a device key.
#[pyfunction]
pub(crate) fn psp_derive_key<'py>(
    py: Python<'py>,
    device_key: [u8; DEVICE_KEY_OCTETS],
    spi: u32,
    version: u8,
) -> PyResult<Bound<'py, PyBytes>> {
    let version = version_of(version)?;
    let key = DeviceKey::new(&device_key).derive(spi, version);
    Ok(PyBytes::new(py, &key[..version.key_octets()]))
}

/// Write the keys of many SPIs under a device key into an array.
#[pyfunction]
pub(crate) fn psp_derive_keys(
    py: Python<'_>,
    device_key: [u8; DEVICE_KEY_OCTETS],
    spis: &Bound<'_, PyAny>,
    version: u8,
    out: &Bound<'_, PyAny>,
    threads: usize,
) -> PyResult<()> {
    let version = version_of(version)?;
    let (spis, mut out) = (Input::<u32>::of(spis)?, Fillable::<u8>::of(out)?);
    let (spis, out) = (spis.items(), out.items());
    py.detach(|| DeviceKey::new(&device_key).derive_many_on(threads, spis, version, out));
    Ok(())
}

/// Return what the derivation's PRF takes.
#[pyfunction]
pub(crate) fn psp_input_blocks(py: Python<'_>, spi: u32, version: u8) -> PyResult<Vec<Bound<'_, PyBytes>>> {
    let version = version_of(version)?;
    let blocks = 1..=version.key_octets() as u32 / 16;
    Ok(blocks.map(|counter| PyBytes::new(py, &kdf::input_block(counter, spi, version))).collect())
}

/// A profile made ready on this side.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct PspProfile {
    pub(crate) prepared: Prepared,
}

#[pymethods]
impl PspProfile {
    /// Take over a `wesper.psp.Profile`, which has checked itself.
    #[new]
    fn new(profile: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { prepared: Prepared::new(look(profile)?) })
    }
}

/// How packets look, out of a `wesper.psp.Profile`.
pub(crate) fn look(profile: &Bound<'_, PyAny>) -> PyResult<Profile> {
    let given = |name: &str| profile.getattr(name).map(|value| Some(value).filter(|value| !value.is_none()));
    let mode = match (value_of(profile, "mode")?.as_str(), given("outer")?) {
        ("transport", _) => Mode::Transport,
        ("tunnel", Some(object)) => Mode::Tunnel(outer(&object)?),
        ("tunnel", None) => Mode::TunnelCopied,
        (other, _) => return Err(unknown("mode", other)),
    };
    let ports: Vec<u16> = profile.getattr("ports")?.extract()?;
    let source_port = match (value_of(profile, "source_port")?.as_str(), ports.first()) {
        ("hash", _) => SourcePort::Hash,
        ("xor", _) => SourcePort::Xor,
        ("fixed", Some(port)) => SourcePort::Fixed(*port),
        ("table", Some(_)) => SourcePort::Table(ports),
        (other, _) => return Err(unknown("source port rule", other)),
    };
    let cookie: Option<[u8; 8]> = profile.getattr("cookie")?.extract()?;
    Ok(Profile {
        mode,
        version: version_of(profile.getattr("version")?.extract()?)?,
        crypt_offset_words: profile.getattr("crypt_offset_words")?.extract()?,
        cookie,
        extension: profile.getattr("extension")?.extract()?,
        port: profile.getattr("port")?.extract()?,
        source_port,
        checksum: profile.getattr("checksum")?.extract()?,
        sample: profile.getattr("sample")?.extract()?,
        drop: profile.getattr("drop")?.extract()?,
        reserved: profile.getattr("reserved")?.extract()?,
        mtu: profile.getattr("mtu")?.extract()?,
    })
}

/// What an engine is made with.
pub(crate) fn options(
    port: u16,
    versions: &[u8],
    verify_checksum: bool,
    hash_key: [u8; 16],
    provider: Option<&str>,
) -> PyResult<core::Options> {
    let provider = match provider {
        None => Provider::default(),
        Some(name) => {
            Provider::by_name(name).ok_or_else(|| refused(format_args!("this build has no provider {name:?}")))?
        }
    };
    let versions = versions.iter().fold(0, |all, version| all | 1 << (version & 7));
    Ok(core::Options { port, versions, verify_checksum, hash_key, provider })
}

/// Device keys and packets. `wesper.psp.native` makes the whole engine of it.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct PspEngine {
    core: Arc<core::Engine>,
    pool: Arc<Pool>,
}

/// Lends a batch's octets to Python; the memory goes back to the pool when that is done with it.
fn lent(output: Output, pool: &Arc<Pool>) -> Array {
    let (memory, octets) = output.into_memory();
    Array::part(Lease::new(memory, pool), 0..octets)
}

type Opened<'py> = (u8, Bound<'py, PyBytes>, u32, u64, u8, Bound<'py, PyBytes>, Bound<'py, PyBytes>, usize);

#[pymethods]
impl PspEngine {
    #[new]
    #[pyo3(signature = (port, versions, verify_checksum, hash_key, provider = None))]
    fn new(
        port: u16,
        versions: Vec<u8>,
        verify_checksum: bool,
        hash_key: [u8; 16],
        provider: Option<&str>,
    ) -> PyResult<Self> {
        let options = options(port, &versions, verify_checksum, hash_key, provider)?;
        Ok(Self { core: Arc::new(core::Engine::new(options)), pool: Arc::default() })
    }

    fn set_device_key(&self, slot: usize, key: Option<[u8; DEVICE_KEY_OCTETS]>) {
        self.core.set_device_key(slot, key.as_ref());
    }

    /// The key of an SPI; None if its device key is not there.
    fn derive_key<'py>(&self, py: Python<'py>, spi: u32, version: u8) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let version = version_of(version)?;
        Ok(self.core.derive(spi, version).map(|key| PyBytes::new(py, &key[..version.key_octets()])))
    }

    /// Fill an array with the keys of SPIs; return the slot whose device key is not there.
    fn derive_keys(
        &self,
        py: Python<'_>,
        spis: &Bound<'_, PyAny>,
        version: u8,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<Option<usize>> {
        let version = version_of(version)?;
        let (spis, mut out) = (Input::<u32>::of(spis)?, Fillable::<u8>::of(out)?);
        let (spis, out) = (spis.items(), out.items());
        Ok(py.detach(|| self.core.derive_many(spis, version, out)).err())
    }

    /// None for what is no packet, or a key of another length.
    fn seal<'py>(&self, py: Python<'py>, key: &[u8], packet: &[u8]) -> Option<Bound<'py, PyBytes>> {
        self.core.seal(key, packet).map(|sealed| PyBytes::new(py, &sealed))
    }

    /// (packet,), (None,) if the ICV does not fit; None for what is no packet, or a key of another length.
    fn open<'py>(&self, py: Python<'py>, key: &[u8], sealed: &[u8]) -> Option<(Option<Bound<'py, PyBytes>>,)> {
        self.core.open(key, sealed).map(|opened| (opened.map(|packet| PyBytes::new(py, &packet)),))
    }

    /// (code, largest packet that fits, packet).
    fn encapsulate<'py>(
        &self,
        py: Python<'py>,
        profile: &PspProfile,
        packet: &[u8],
        spi: u32,
        key: &[u8],
        iv: u64,
    ) -> (u8, usize, Bound<'py, PyBytes>) {
        let mut out = Output::default();
        let (code, mtu) = match self.core.encapsulate(&profile.prepared, packet, spi, key, iv, &mut out) {
            Ok(()) => (0, 0),
            Err(refused) => (refused.reason as u8, refused.mtu),
        };
        (code, mtu, PyBytes::new(py, out.data()))
    }

    /// (code, packet, SPI, IV, flags, cookie, extension, octets).
    fn decapsulate<'py>(&self, py: Python<'py>, packet: &[u8]) -> Opened<'py> {
        let (mut out, mut extension) = (Output::default(), Vec::new());
        let (code, opened) = match self.core.decapsulate(packet, &mut out, &mut extension) {
            Ok(opened) => (opened.reason.map_or(0, |reason| reason as u8), opened),
            Err(reason) => (reason as u8, Default::default()),
        };
        let octets = |octets: &[u8]| PyBytes::new(py, octets);
        let (cookie, extension) = (octets(&opened.cookie), octets(&extension));
        (code, octets(out.data()), opened.spi, opened.iv, opened.flags, cookie, extension, opened.octets)
    }

    #[allow(clippy::too_many_arguments, reason = "arrays of one batch")]
    fn encapsulate_many(
        &self,
        py: Python<'_>,
        profile: &PspProfile,
        data: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        spis: &Bound<'_, PyAny>,
        keys: &Bound<'_, PyAny>,
        ivs: &Bound<'_, PyAny>,
    ) -> PyResult<(Array, Array, Array)> {
        let (data, offsets) = (Input::<u8>::of(data)?, Input::<u64>::of(offsets)?);
        let (spis, keys, ivs) = (Input::<u32>::of(spis)?, Input::<u8>::of(keys)?, Input::<u64>::of(ivs)?);
        let (data, offsets) = (data.items(), offsets.items());
        let (spis, keys, ivs) = (spis.items(), keys.items(), ivs.items());
        let prepared = &profile.prepared;
        let work = || self.core.encapsulate_many(self.pool.take(), prepared, data, offsets, spis, keys, ivs);
        let Sent { output, offsets, codes } = py.detach(work);
        Ok((lent(output, &self.pool), offsets.into(), codes.into()))
    }

    fn decapsulate_many(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
    ) -> PyResult<(Array, Array, Array, Array, Array, Array, Array)> {
        let (data, offsets) = (Input::<u8>::of(data)?, Input::<u64>::of(offsets)?);
        let (data, offsets) = (data.items(), offsets.items());
        let received = py.detach(|| self.core.decapsulate_many(self.pool.take(), data, offsets));
        let Received { output, offsets, codes, spis, ivs, cookies, flags } = received;
        Ok((
            lent(output, &self.pool),
            offsets.into(),
            codes.into(),
            spis.into(),
            ivs.into(),
            cookies.into(),
            flags.into(),
        ))
    }

    /// Count packets that Python's side has dropped.
    fn count(&self, code: u8, packets: u64) -> PyResult<()> {
        let reason = DropReason::ALL.into_iter().find(|reason| *reason as u8 == code);
        self.core.count(reason.ok_or_else(|| refused(format_args!("no reason has the code {code}")))?, packets);
        Ok(())
    }

    /// Code, drops and octets of those, for each code that has any.
    fn drops(&self) -> Vec<(usize, u64, u64)> {
        let counters = self.core.counters();
        let drops = counters.drops.into_iter().zip(counters.dropped_octets).enumerate();
        drops.filter(|(_, (count, _))| *count > 0).map(|(code, (count, octets))| (code, count, octets)).collect()
    }

    /// rx_packets, rx_bytes, tx_packets, tx_bytes.
    fn totals(&self) -> (u64, u64, u64, u64) {
        let counters = self.core.counters();
        (counters.rx_packets, counters.rx_bytes, counters.tx_packets, counters.tx_bytes)
    }

    fn __repr__(&self) -> &'static str {
        "<wesper native PSP engine>"
    }
}

/// Packets, octets and seconds; None without end.
type GivenLimits = (Option<u64>, Option<u64>, Option<u64>);

fn limits((packets, octets, seconds): GivenLimits) -> Limits {
    Limits { packets, octets, seconds }
}

/// A run of IVs, or counters between two bounds.
#[derive(FromPyObject)]
enum GivenIvs {
    Counters(u64, u64),
    Run(u64),
}

/// Transmit associations. `wesper.psp.table` makes the whole of it.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct PspTable {
    engine: Arc<core::Engine>,
    pool: Arc<Pool>,
    table: Mutex<table::Table>,
}

impl PspTable {
    fn locked(&self) -> MutexGuard<'_, table::Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PspTable {
    /// profiles: `wesper.psp.Profile`s.
    #[new]
    fn new(
        engine: &PspEngine,
        profiles: Vec<Bound<'_, PyAny>>,
        soft: GivenLimits,
        hard: GivenLimits,
    ) -> PyResult<Self> {
        let profiles: PyResult<_> = profiles.iter().map(|profile| Ok(PspProfile::new(profile)?.prepared)).collect();
        let table = table::Table::new(profiles?, limits(soft), limits(hard));
        Ok(Self { engine: Arc::clone(&engine.core), pool: Arc::clone(&engine.pool), table: Mutex::new(table) })
    }

    /// The number; None for a reserved SPI or a key that does not fit.
    fn install(&self, profile: u16, spi: u32, key: &[u8], now: u32) -> Option<u64> {
        self.locked().install(profile, spi, key, now)
    }

    /// Numbers of many; fewer than SPIs where one is refused.
    fn install_many(
        &self,
        py: Python<'_>,
        profile: u16,
        spis: &Bound<'_, PyAny>,
        keys: &Bound<'_, PyAny>,
        now: u32,
    ) -> PyResult<Array> {
        let (spis, keys) = (Input::<u32>::of(spis)?, Input::<u8>::of(keys)?);
        let (spis, keys) = (spis.items(), keys.items());
        let octets = keys.len().checked_div(spis.len()).unwrap_or(0).max(1);
        Ok(Array::from(py.detach(|| {
            let mut table = self.locked();
            let both = spis.iter().zip(keys.chunks_exact(octets));
            both.map_while(|(spi, key)| table.install(profile, *spi, key, now)).collect::<Vec<_>>()
        })))
    }

    fn replace(&self, id: u64, spi: u32, key: &[u8], now: u32) -> bool {
        self.locked().replace(id, spi, key, now)
    }

    fn remove(&self, id: u64) -> bool {
        self.locked().remove(id)
    }

    /// (SPI, last IV, packets, octets).
    fn state(&self, id: u64) -> Option<(u32, u64, u64, u64, u32)> {
        let state = self.locked().state(id)?;
        Some((state.spi, state.iv, state.packets, state.octets, state.installed))
    }

    /// (number, whether it is a hard limit, 0 packets, 1 octets, 2 seconds).
    fn next_event(&self) -> Option<(u64, bool, u8)> {
        self.locked().next_event().map(|event| (event.id, event.is_hard, event.limit as u8))
    }

    /// Events that nobody fetched in time.
    #[getter]
    fn lost_events(&self) -> u64 {
        self.locked().lost_events()
    }

    /// Octets of all rows.
    #[getter]
    fn octets(&self) -> usize {
        self.locked().octets()
    }

    /// The highest IV of the associations' own counters.
    #[getter]
    fn highest_iv(&self) -> u64 {
        self.locked().highest_iv()
    }

    fn __len__(&self) -> usize {
        self.locked().len()
    }

    /// ids: one, or an array of them. ivs: the first of a run, or (base, end) of counters.
    fn encapsulate_many(
        &self,
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        ivs: GivenIvs,
        now: u32,
    ) -> PyResult<(Array, Array, Array)> {
        let (data, offsets) = (Input::<u8>::of(data)?, Input::<u64>::of(offsets)?);
        let (data, offsets) = (data.items(), offsets.items());
        let ivs = match ivs {
            GivenIvs::Run(first) => Ivs::Run { first },
            GivenIvs::Counters(base, end) => Ivs::Counters { base, end },
        };
        let run =
            |ids: Ids<'_>| self.locked().encapsulate_many(self.pool.take(), &self.engine, data, offsets, ids, ivs, now);
        let Sent { output, offsets, codes } = if ids.is_instance_of::<PyInt>() {
            let id = ids.extract()?;
            py.detach(|| run(Ids::One(id)))
        } else {
            let ids = Input::<u64>::of(ids)?;
            let ids = ids.items();
            py.detach(|| run(Ids::Each(ids)))
        };
        Ok((lent(output, &self.pool), offsets.into(), codes.into()))
    }

    fn __repr__(&self) -> String {
        format!("<wesper native PSP transmit table, {} associations>", self.locked().len())
    }
}

/// Replay rules by SPI.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct PspGuard {
    guard: Mutex<Guard>,
}

impl PspGuard {
    fn locked(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PspGuard {
    #[new]
    fn new(most: usize) -> Self {
        Self { guard: Mutex::new(Guard::new(most)) }
    }

    fn __len__(&self) -> usize {
        self.locked().len()
    }

    fn watch_time(&self, spi: u32, margin_ns: u64, newest: u64) -> bool {
        self.locked().watch_time(spi, margin_ns, newest)
    }

    fn watch_exact(&self, spi: u32, window: u32, newest: u64) -> PyResult<bool> {
        self.locked().watch_exact(spi, window, newest).map_err(refused)
    }

    fn forget(&self, spi: u32) {
        self.locked().forget(spi);
    }

    fn forget_slot(&self, slot: u32) {
        self.locked().forget_slot(slot);
    }

    /// (0 time or 1 exact, newest IV, accepted, replayed).
    fn state(&self, spi: u32) -> Option<(u8, u64, u64, u64)> {
        let found = self.locked().state(spi)?;
        Some((found.is_exact.into(), found.newest, found.accepted, found.replayed))
    }

    fn accept(&self, spi: u32, iv: u64) -> bool {
        self.locked().accept(spi, iv)
    }

    fn accept_many(
        &self,
        py: Python<'_>,
        spis: &Bound<'_, PyAny>,
        ivs: &Bound<'_, PyAny>,
        codes: &Bound<'_, PyAny>,
    ) -> PyResult<Array> {
        let (spis, ivs, codes) = (Input::<u32>::of(spis)?, Input::<u64>::of(ivs)?, Input::<u8>::of(codes)?);
        let (spis, ivs, mut codes) = (spis.items(), ivs.items(), codes.items().to_vec());
        py.detach(|| self.locked().accept_many(spis, ivs, &mut codes));
        Ok(codes.into())
    }

    fn __repr__(&self) -> String {
        format!("<wesper native PSP guard, {} associations>", self.locked().len())
    }
}
