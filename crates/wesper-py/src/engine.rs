//! The engine as Python sees it. Batches release the GIL; the two halves take calls from two threads at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt};
use wesper_core::aead::Provider;
use wesper_core::batch::{Ids, Marks};
use wesper_core::engine as core;
use wesper_core::profile::{InstallError, Options, Sa};
use wesper_core::selectors::Way;
use wesper_core::sender::Besides;
use wesper_core::verdict::DropReason;

use crate::batches::Batches;
use crate::ffi::{Array, Input};
use crate::pool::Pool;
use crate::profiles::{self, Profile};
use crate::verdicts::Verdicts;
use crate::{events, policies};

/// SAs, policies, and packets through them. `wesper.engine.native` makes the whole engine of it.
#[pyclass(subclass, frozen, module = "wesper._native")]
pub(crate) struct Engine {
    /// Shared with the workers of a tunnel.
    pub(crate) core: Arc<core::Engine>,
    pool: Arc<Pool>,
}

fn way(outbound: bool) -> Way {
    if outbound { Way::Outbound } else { Way::Inbound }
}

/// The caller's fault, as `wesper.ConfigError`.
fn config_error(py: Python<'_>, error: InstallError) -> PyResult<PyErr> {
    let details = PyDict::new(py);
    match error {
        InstallError::Taken(_) => {
            details.set_item("key", "spi")?;
            details.set_item("expected", "one that no installed SA has")?;
        }
        InstallError::SpiZero => {
            details.set_item("key", "spi")?;
            details.set_item("expected", "0x100..0xffffffff")?;
        }
        InstallError::KeyLength { .. } => details.set_item("key", "key")?,
        InstallError::Profile(_) => details.set_item("key", "profile")?,
        InstallError::Full => (),
    }
    let made = py.import("wesper.errors")?.getattr("ConfigError")?.call((error.to_string(),), Some(&details))?;
    Ok(PyErr::from_value(made))
}

fn install_error(py: Python<'_>, error: InstallError) -> PyErr {
    config_error(py, error).unwrap_or_else(|failed| failed)
}

/// Spreads SPIs over the table; it defends nothing, so a clock is good enough.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    now.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (iv_key, udp_ports, audit, events, resync_failures, resync_tries, shards, provider = None))]
    #[allow(clippy::too_many_arguments, reason = "the fields of wesper.Options")]
    fn new(
        iv_key: [u8; 16],
        udp_ports: Vec<u16>,
        audit: bool,
        events: usize,
        resync_failures: u32,
        resync_tries: u32,
        shards: usize,
        provider: Option<&str>,
    ) -> PyResult<Self> {
        let provider = match provider {
            None => Provider::default(),
            Some(name) => Provider::by_name(name)
                .ok_or_else(|| PyValueError::new_err(format!("this build has no provider {name:?}")))?,
        };
        let options = Options {
            udp_ports,
            audit,
            events,
            resync_failures,
            resync_tries,
            shards,
            provider,
            seed: seed(),
            ..Options::new(iv_key)
        };
        Ok(Self { core: Arc::new(core::Engine::new(&options)), pool: Arc::default() })
    }

    fn __repr__(&self) -> &'static str {
        "<wesper native engine>"
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of wesper.SA")]
    fn _install(
        &self,
        py: Python<'_>,
        profile: &Profile,
        outbound: bool,
        spi: u32,
        key: &[u8],
        salt: &[u8],
        auth_key: &[u8],
        sequence: u64,
        multicast: Vec<IpAddr>,
        iv: Option<&[u8]>,
        now: u64,
    ) -> PyResult<u64> {
        let sa = Sa { spi, key, salt, auth_key, sequence, multicast: &multicast, iv };
        self.core.install(&profile.shared, way(outbound), &sa, now).map_err(|error| install_error(py, error))
    }

    fn _install_many(
        &self,
        py: Python<'_>,
        profile: &Profile,
        outbound: bool,
        spis: &Bound<'_, PyAny>,
        keys: &Bound<'_, PyAny>,
        now: u64,
    ) -> PyResult<Array> {
        let (spis, keys) = (Input::<u32>::of(spis)?, Input::<u8>::of(keys)?);
        let (spis, keys) = (spis.items(), keys.items());
        py.detach(|| self.core.install_many(&profile.shared, way(outbound), spis, keys, now))
            .map(Array::from)
            .map_err(|error| install_error(py, error))
    }

    fn _remove(&self, sa: u64) -> bool {
        self.core.remove(sa)
    }

    fn _state(&self, sa: u64) -> Option<(u64, u64, u64, u64, u64, u16)> {
        let state = self.core.state(sa)?;
        Some((state.sequence, state.packets, state.octets, state.replay, state.integrity_failed, state.mtu))
    }

    /// (sequence, packets, octets); None inside: no packet of such a Sub SA, None outside: no such SA.
    fn _sub_sa_state(&self, sa: u64, id: u16) -> Option<(Option<(u64, u64, u64)>,)> {
        let found = self.core.sub_sa_state(sa, id)?;
        Some((found.map(|state| (state.sequence, state.packets, state.octets)),))
    }

    /// The address of an SA's profile, None if there is no such SA.
    fn _profile_address(&self, sa: u64) -> Option<usize> {
        self.core.profile(sa).as_ref().map(profiles::address)
    }

    fn _find(&self, py: Python<'_>, spis: &Bound<'_, PyAny>) -> PyResult<Array> {
        let spis = Input::<u32>::of(spis)?;
        let spis = spis.items();
        Ok(Array::from(py.detach(|| {
            let mut ids = vec![0; spis.len()];
            self.core.find(spis, &mut ids);
            ids
        })))
    }

    /// (number or None,), None if there is no such SA.
    fn _infer(&self, sa: u64, low: u32) -> Option<(Option<u64>,)> {
        self.core.infer(sa, low).map(|number| (number,))
    }

    fn _inner_mtu(&self, sa: u64, now: u64) -> Option<usize> {
        self.core.inner_mtu(sa, now)
    }

    fn _set_mtu(&self, sa: u64, mtu: u32, now: u64) -> bool {
        self.core.set_mtu(sa, mtu, now)
    }

    fn _reserve(&self, sa: u64, last: u64) -> bool {
        self.core.reserve(sa, last)
    }

    fn _close_window(&self, sa: u64) -> bool {
        self.core.close_window(sa)
    }

    fn _set_native_profile(&self, sa: u64, profile: &Profile) -> bool {
        self.core.set_profile(sa, &profile.shared)
    }

    /// Protect one packet with this SA.
    #[pyo3(signature = (sa, packet, now, *, tfc = None, mark = 0))]
    fn encapsulate<'py>(
        &self,
        py: Python<'py>,
        sa: u64,
        packet: &[u8],
        now: u64,
        tfc: Option<&[u8]>,
        mark: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let verdicts = Verdicts::get(py)?;
        let besides = Besides { tfc: tfc.unwrap_or_default(), mark };
        match self.core.encapsulate(sa, packet, besides, now, |octets| PyBytes::new(py, octets)) {
            Ok(delivered) => verdicts.delivered(py, delivered),
            Err(dropped) => verdicts.not_sent(py, dropped),
        }
    }

    /// Make a packet that the peer throws away (RFC 4303 §2.6).
    fn dummy<'py>(&self, py: Python<'py>, sa: u64, payload: &[u8], now: u64) -> PyResult<Bound<'py, PyAny>> {
        let verdicts = Verdicts::get(py)?;
        match self.core.dummy(sa, payload, now, |octets| PyBytes::new(py, octets)) {
            Ok(delivered) => verdicts.delivered(py, delivered),
            Err(dropped) => verdicts.not_sent(py, dropped),
        }
    }

    /// Open one packet.
    fn decapsulate<'py>(&self, py: Python<'py>, packet: &[u8], now: u64) -> PyResult<Bound<'py, PyAny>> {
        let verdicts = Verdicts::get(py)?;
        match self.core.decapsulate(packet, now, |octets| PyBytes::new(py, octets)) {
            Ok(delivered) => verdicts.delivered(py, delivered),
            Err(reason) => verdicts.dropped(py, reason),
        }
    }

    /// sas: one id, or an array of them. marks: the same.
    fn _encapsulate_many<'py>(
        &self,
        py: Python<'py>,
        sas: &Bound<'_, PyAny>,
        marks: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        now: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (data, offsets) = (Input::<u8>::of(data)?, Input::<u64>::of(offsets)?);
        let (data, offsets) = (data.items(), offsets.items());
        let each = if sas.is_instance_of::<PyInt>() { None } else { Some(Input::<u64>::of(sas)?) };
        let ids = match &each {
            Some(each) => Ids::Each(each.items()),
            None => Ids::One(sas.extract()?),
        };
        let named = if marks.is_instance_of::<PyInt>() { None } else { Some(Input::<u32>::of(marks)?) };
        let marks = match &named {
            Some(named) => Marks::Each(named.items()),
            None => Marks::One(marks.extract()?),
        };
        Batches::get(py)?
            .run(py, &self.pool, |memory| self.core.encapsulate_many(ids, marks, data, offsets, now, memory))
    }

    fn _decapsulate_many<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        now: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (data, offsets) = (Input::<u8>::of(data)?, Input::<u64>::of(offsets)?);
        let (data, offsets) = (data.items(), offsets.items());
        Batches::get(py)?.run(py, &self.pool, |memory| self.core.decapsulate_many(data, offsets, now, memory))
    }

    fn _set_policies(&self, outbound: &Bound<'_, PyAny>, inbound: &Bound<'_, PyAny>) -> PyResult<()> {
        self.core.set_policies(policies::policies(outbound)?, policies::policies(inbound)?);
        Ok(())
    }

    fn _lookup_policy(&self, packet: &[u8], outbound: bool) -> Option<(Option<usize>, Option<u64>)> {
        let found = self.core.look_up_policy(packet, way(outbound)).ok()?;
        Some(found.map_or((None, None), |found| (Some(found.index), found.sa)))
    }

    /// Return when the next SA reaches a limit of time, in ns; None if none will.
    fn deadline(&self, py: Python<'_>) -> Option<u64> {
        py.detach(|| self.core.deadline())
    }

    /// Raise the events of all limits of time that are reached, and remove SAs whose hard lifetime is over.
    fn handle_timeout(&self, py: Python<'_>, now: u64) {
        py.detach(|| self.core.handle_timeout(now));
    }

    /// Return the oldest event not yet fetched.
    fn next_event<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.core.next_event().map(|event| events::to_python(py, &event)).transpose()
    }

    #[getter]
    fn lost_events(&self) -> u64 {
        self.core.lost_events()
    }

    fn _tell(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.core.tell(events::from_python(event)?);
        Ok(())
    }

    /// How often each code has dropped a packet; only those that have.
    fn _drops(&self) -> Vec<(usize, u64)> {
        self.core.drops().into_iter().enumerate().filter(|(_, count)| *count > 0).collect()
    }

    fn _count_code(&self, code: u8) -> PyResult<()> {
        let reason = DropReason::ALL.into_iter().find(|reason| *reason as u8 == code);
        self.core.count(reason.ok_or_else(|| PyValueError::new_err(format!("no reason has the code {code}")))?);
        Ok(())
    }

    fn _recent_outbound(&self, spi: u32, remote: &Bound<'_, PyAny>) -> PyResult<Vec<(u64, u64)>> {
        let remote = events::address(remote)?;
        Ok(remote.map(|remote| self.core.recent_outbound(spi, remote)).unwrap_or_default())
    }
}
