//! PSP's gateway as Python sees it: shared with the workers of a tunnel, each half behind its own lock.

use std::net::IpAddr;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use wesper_core::psp::gateway::{self as core, GatewayProfile, HEADROOM, InstallError, TAILROOM};
use wesper_core::psp::guard::Rule;
use wesper_core::psp::kdf::DEVICE_KEY_OCTETS;
use wesper_core::replay::ReplayWindow;
use wesper_core::sender::OUTBOUND_IDS;
use wesper_core::verdict::DropReason;

use crate::policies::{self, Selector};
use crate::profiles::Lifetime;
use crate::{events, psp};

/// Associations, policies, and packets through them. `wesper.psp.native_gateway` makes the whole of it.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct PspGateway {
    /// Shared with the workers of a tunnel.
    pub(crate) core: Arc<core::Gateway>,
}

/// Sequence, packets, octets, replays, failures, MTU.
type State = (u64, u64, u64, u64, u64, u16);

fn rule(replay: &Bound<'_, PyAny>) -> PyResult<Option<Rule>> {
    let kind: String = replay.getattr("kind")?.getattr("value")?.extract()?;
    match kind.as_str() {
        "none" => Ok(None),
        "time_window" => Ok(Some(Rule::Time { margin: replay.getattr("margin_ns")?.extract()? })),
        "exact" => {
            let window = ReplayWindow::new(replay.getattr("window")?.extract()?);
            Ok(Some(Rule::Exact(window.map_err(|error| PyValueError::new_err(error.to_string()))?)))
        }
        other => Err(PyValueError::new_err(format!("no replay rule is named {other}"))),
    }
}

fn convert(profile: &Bound<'_, PyAny>) -> PyResult<GatewayProfile> {
    let selectors: Vec<Selector> = profile.getattr("selectors")?.extract()?;
    let (soft, hard): (Lifetime, Lifetime) = (profile.getattr("soft")?.extract()?, profile.getattr("hard")?.extract()?);
    Ok(GatewayProfile {
        look: psp::look(&profile.getattr("look")?)?,
        local: profile.getattr("local")?.extract()?,
        remote: profile.getattr("remote")?.extract()?,
        selectors: selectors.into_iter().map(Into::into).collect(),
        soft: soft.into(),
        hard: hard.into(),
        replay: rule(&profile.getattr("replay")?)?,
    })
}

fn reason_of(code: u8) -> PyResult<DropReason> {
    let reason = DropReason::ALL.into_iter().find(|reason| *reason as u8 == code);
    reason.ok_or_else(|| PyValueError::new_err(format!("no reason has the code {code}")))
}

#[pymethods]
impl PspGateway {
    #[new]
    #[pyo3(signature = (port, versions, verify_checksum, hash_key, events, provider = None))]
    fn new(
        port: u16,
        versions: Vec<u8>,
        verify_checksum: bool,
        hash_key: [u8; 16],
        events: usize,
        provider: Option<&str>,
    ) -> PyResult<Self> {
        let options = psp::options(port, &versions, verify_checksum, hash_key, provider)?;
        Ok(Self { core: Arc::new(core::Gateway::new(&options, events)) })
    }

    fn __repr__(&self) -> &'static str {
        "<wesper native PSP gateway>"
    }

    fn set_device_key(&self, slot: usize, key: Option<[u8; DEVICE_KEY_OCTETS]>) {
        self.core.receiver().set_device_key(slot, key.as_ref());
    }

    /// The id, or what is wrong: "spi", "taken", "key" or "device".
    fn install(
        &self,
        profile: &Bound<'_, PyAny>,
        outbound: bool,
        spi: u32,
        key: &[u8],
        iv: u64,
        now: u64,
    ) -> PyResult<(Option<u64>, &'static str)> {
        let profile = convert(profile)?;
        let done = if outbound {
            self.core.sender().install(&profile, spi, key, iv, now)
        } else {
            self.core.receiver().install(&profile, spi, key, iv)
        };
        Ok(match done {
            Ok(id) => (Some(id), ""),
            Err(InstallError::Spi) => (None, "spi"),
            Err(InstallError::Taken) => (None, "taken"),
            Err(InstallError::Key) => (None, "key"),
            Err(InstallError::NoDeviceKey) => (None, "device"),
        })
    }

    fn remove(&self, sa: u64) -> bool {
        if sa >= OUTBOUND_IDS { self.core.sender().remove(sa) } else { self.core.receiver().remove(sa) }
    }

    fn state(&self, sa: u64) -> Option<State> {
        let state = if sa >= OUTBOUND_IDS { self.core.sender().state(sa) } else { self.core.receiver().state(sa) }?;
        Some((state.sequence, state.packets, state.octets, state.replay, state.integrity_failed, state.mtu))
    }

    /// The MTU of an outbound association's path now.
    fn mtu(&self, sa: u64, now: u64) -> Option<usize> {
        self.core.sender().mtu(sa, now)
    }

    fn set_mtu(&self, sa: u64, mtu: usize, now: u64) -> bool {
        self.core.sender().set_mtu(sa, mtu, now)
    }

    fn reserve(&self, sa: u64, last: u64) -> bool {
        self.core.sender().reserve(sa, last)
    }

    fn close_window(&self, sa: u64) -> bool {
        self.core.receiver().close_window(sa)
    }

    fn set_profile(&self, sa: u64, profile: &Bound<'_, PyAny>) -> PyResult<bool> {
        let profile = convert(profile)?;
        Ok(if sa >= OUTBOUND_IDS {
            self.core.sender().set_profile(sa, &profile)
        } else {
            self.core.receiver().set_profile(sa, &profile)
        })
    }

    /// (code, largest packet that fits, packet, IV). bare: the packet keeps its own IP header.
    fn encapsulate<'py>(
        &self,
        py: Python<'py>,
        sa: u64,
        packet: &[u8],
        bare: bool,
        now: u64,
    ) -> (u8, usize, Bound<'py, PyBytes>, u64) {
        let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
        buf[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        match self.core.sender().encapsulate(sa, &mut buf, HEADROOM, packet.len(), bare, now) {
            Ok(sealed) => {
                let made = buf.get(sealed.start..sealed.start + sealed.len).unwrap_or_default();
                (0, 0, PyBytes::new(py, made), sealed.sequence)
            }
            Err(dropped) => (dropped.reason as u8, dropped.mtu, PyBytes::new(py, &[]), 0),
        }
    }

    /// (code, packet, id, IV).
    fn decapsulate<'py>(&self, py: Python<'py>, packet: &[u8]) -> (u8, Bound<'py, PyBytes>, u64, u64) {
        let mut buf = packet.to_vec();
        match self.core.receiver().decapsulate(&mut buf, 0, packet.len()) {
            Ok(opened) => {
                let inner = buf.get(opened.start..opened.start + opened.len).unwrap_or_default();
                (0, PyBytes::new(py, inner), opened.sa, opened.iv)
            }
            Err(reason) => (reason as u8, PyBytes::new(py, &[]), 0, 0),
        }
    }

    fn set_policies(&self, outbound: &Bound<'_, PyAny>) -> PyResult<()> {
        self.core.sender().set_policies(policies::policies(outbound)?);
        Ok(())
    }

    /// (place of the policy or None, id or None); None if the packet is not IP.
    fn look_up_policy(&self, packet: &[u8]) -> Option<(Option<usize>, Option<u64>)> {
        let found = self.core.sender().look_up_policy(packet).ok()?;
        Some(found.map_or((None, None), |found| (Some(found.index), found.sa)))
    }

    fn handle_timeout(&self, now: u64) {
        self.core.sender().handle_timeout(now);
    }

    fn next_event<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let event = self.core.sender().next_event();
        event.map(|event| events::to_python(py, &event)).transpose()
    }

    #[getter]
    fn lost_events(&self) -> u64 {
        self.core.sender().lost_events()
    }

    fn tell(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        let event = events::from_python(event)?;
        self.core.sender().tell(event);
        Ok(())
    }

    /// (id, last IV) of outbound associations.
    fn recent_outbound(&self, spi: u32, remote: IpAddr) -> Vec<(u64, u64)> {
        self.core.sender().recent(spi, remote)
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

    /// Count a drop that Python's side has decided.
    fn count(&self, code: u8) -> PyResult<()> {
        let reason = reason_of(code)?;
        self.core.sender().count(reason);
        Ok(())
    }
}
