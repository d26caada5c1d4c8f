//! The workers of a live tunnel as Python sees them: started, stopped and asked; no packet of theirs passes here.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use wesper_core::selectors::Way;
use wesper_dataplane::counters::{INWARD, OUTWARD};
use wesper_dataplane::device::Device;
use wesper_dataplane::group::{LinkEnd, LinkKind};
use wesper_dataplane::link::Link;
use wesper_dataplane::{self as core, Carrier, Shared};

use crate::engine::Engine;
use crate::gateway::PspGateway;

/// Descriptor, virtio_net_hdr, destination and source of Ethernet frames, UDP super-packets.
type DeviceParts = (RawFd, bool, Option<[u8; 12]>, bool);
/// Kind, descriptor, local address, port, whether it shares that, for which shard it receives, if anything comes by it.
type LinkParts = (String, RawFd, IpAddr, u16, bool, Option<usize>);
/// Nanoseconds, outbound, inner, octets before it was cut, octets, code of the drop or 0.
type SeenParts<'py> = (u64, bool, bool, usize, Bound<'py, PyBytes>, u8);

/// The workers of one interface. `wesper.tunnel.native_loop` makes a loop of it.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct Dataplane {
    workers: Mutex<core::Dataplane>,
    shared: Arc<Shared>,
}

/// Either kind of engine.
#[derive(FromPyObject)]
enum Engines<'py> {
    Sas(PyRef<'py, Engine>),
    Psp(PyRef<'py, PspGateway>),
}

impl From<Engines<'_>> for Carrier {
    fn from(given: Engines<'_>) -> Self {
        match given {
            Engines::Sas(engine) => Self::Sas(Arc::clone(&engine.core)),
            Engines::Psp(gateway) => Self::Psp(Arc::clone(&gateway.core)),
        }
    }
}

fn link(parts: &LinkParts, offloads: bool) -> PyResult<Link> {
    let (kind, fd, local, port, shares, shard) = parts;
    let kind = match kind.as_str() {
        "udp4" => LinkKind::Udp4,
        "udp6" => LinkKind::Udp6,
        "raw4" => LinkKind::Raw4,
        "raw6" => LinkKind::Raw6,
        _ => return Err(PyValueError::new_err(format!("no kind of link is called {kind:?}"))),
    };
    Ok(Link::new(*fd, LinkEnd { kind, local: *local, port: *port }, offloads, *shares, *shard)?)
}

#[pymethods]
impl Dataplane {
    #[new]
    fn new(carrier: Engines<'_>, devices: Vec<DeviceParts>, links: Vec<LinkParts>, offloads: bool) -> PyResult<Self> {
        let devices: Vec<Device> = devices
            .into_iter()
            .map(|(fd, vnet, ethernet, udp)| Device::new(fd, vnet, ethernet, udp))
            .collect::<Result<_, _>>()?;
        let links: Vec<Link> = links.iter().map(|parts| link(parts, offloads)).collect::<Result<_, _>>()?;
        let workers = core::Dataplane::new(carrier.into(), devices, links)?;
        let shared = Arc::clone(workers.shared());
        Ok(Self { workers: Mutex::new(workers), shared })
    }

    fn start(&self) -> PyResult<()> {
        Ok(self.workers.lock().unwrap_or_else(PoisonError::into_inner).start()?)
    }

    fn drain(&self, py: Python<'_>) -> f64 {
        py.detach(|| self.workers.lock().unwrap_or_else(PoisonError::into_inner).drain()).as_secs_f64()
    }

    fn stop(&self, py: Python<'_>, drain_seconds: f64) -> PyResult<()> {
        let drain = Duration::try_from_secs_f64(drain_seconds).unwrap_or_default();
        py.detach(|| self.workers.lock().unwrap_or_else(PoisonError::into_inner).stop(drain))?;
        Ok(())
    }

    /// What has been counted; a name may come outward and inward.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        [self.shared.outward.all(&OUTWARD), self.shared.inward.all(&INWARD)].concat()
    }

    /// Whether a worker has ended though nobody told it to; `stop` says why.
    fn has_died(&self) -> bool {
        self.shared.has_died()
    }

    /// Of each link: whether the kernel cuts messages into datagrams, and puts datagrams together.
    fn offloads(&self) -> Vec<(bool, bool)> {
        self.shared.links().iter().map(|link| (link.has_segmentation(), link.has_coalescing())).collect()
    }

    /// Readable while packets wait for `slow`.
    #[getter]
    fn slow_fd(&self) -> RawFd {
        self.shared.slow.event().as_raw_fd()
    }

    /// The packets of the rare cases: (outbound, packet).
    fn slow<'py>(&self, py: Python<'py>) -> Vec<(bool, Bound<'py, PyBytes>)> {
        let packets = self.shared.slow.drain().into_iter();
        packets.map(|(way, packet)| (way == Way::Outbound, PyBytes::new(py, &packet))).collect()
    }

    fn send(&self, packet: &[u8]) -> Option<&'static str> {
        self.shared.send(packet)
    }

    fn write(&self, packet: &[u8]) -> Option<&'static str> {
        self.shared.write(packet)
    }

    fn open_tap(&self, snap: usize, limit: usize) {
        self.shared.tap.open(snap, limit);
    }

    fn close_tap(&self) {
        self.shared.tap.close();
    }

    /// What was copied since the last time, and how many packets had no room.
    fn seen<'py>(&self, py: Python<'py>) -> (Vec<SeenParts<'py>>, u64) {
        let (seen, lost) = self.shared.tap.drain();
        let parts = seen.into_iter().map(|one| {
            let code = one.reason.map_or(0, |reason| reason as u8);
            let packet = PyBytes::new(py, &one.packet);
            (one.now, one.way == Way::Outbound, one.is_inner, one.octets, packet, code)
        });
        (parts.collect(), lost)
    }
}
