//! `wesper.Event` out of the engine's events, and back for those that are decided in Python.

use std::net::IpAddr;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes};
use wesper_core::events as core;
use wesper_core::verdict::DropReason;

use crate::policies::{self, Selector};
use crate::verdicts::Verdicts;

/// Returns the `wesper.Event` that this is.
pub(crate) fn to_python<'py>(py: Python<'py>, event: &core::Event) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import("wesper.engine.events")?;
    let octets = |address: Option<IpAddr>| match address {
        None => PyBytes::new(py, &[]),
        Some(IpAddr::V4(address)) => PyBytes::new(py, &address.octets()),
        Some(IpAddr::V6(address)) => PyBytes::new(py, &address.octets()),
    };
    let reason = match event.reason {
        Some(reason) => Verdicts::get(py)?.reason(py, reason),
        None => None,
    };
    let selector = event.selector.as_deref().map(|selector| policies::to_python(py, selector)).transpose()?;
    let fields = [
        ("sa", event.sa.into_pyobject(py)?.into_any()),
        ("limit", event.limit.into_pyobject(py)?.into_any()),
        ("reason", reason.into_pyobject(py)?.into_any()),
        ("spi", event.spi.into_pyobject(py)?.into_any()),
        ("sequence", event.sequence.into_pyobject(py)?.into_any()),
        ("source", octets(event.source).into_any()),
        ("destination", octets(event.destination).into_any()),
        ("flow_label", event.flow_label.into_pyobject(py)?.into_any()),
        ("address", octets(event.address).into_any()),
        ("port", event.port.into_pyobject(py)?.into_any()),
        ("mtu", event.mtu.into_pyobject(py)?.into_any()),
        ("inner", event.inner.into_pyobject(py)?.into_any()),
        ("outer", event.outer.into_pyobject(py)?.into_any()),
        ("selector", selector.into_pyobject(py)?.into_any()),
        ("session", event.session.into_pyobject(py)?.into_any()),
        ("pointer", event.pointer.into_pyobject(py)?.into_any()),
        ("packet", PyBytes::new(py, &event.packet).into_any()),
    ];
    let kind = module.getattr("EventKind")?.call1((event.kind.name(),))?;
    module.getattr("Event")?.call((kind, event.now), Some(&fields.into_py_dict(py)?))
}

/// The kinds that are decided above the packet path, in Python.
const FROM_ABOVE: [core::EventKind; 3] =
    [core::EventKind::Acquire, core::EventKind::MtuChanged, core::EventKind::Audit];

/// Reads a `wesper.Event` of a kind that Python decides.
pub(crate) fn from_python(event: &Bound<'_, PyAny>) -> PyResult<core::Event> {
    let kind: String = event.getattr("kind")?.getattr("value")?.extract()?;
    let kind = FROM_ABOVE.into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or_else(|| PyValueError::new_err("an event of a kind that the engine alone raises"))?;
    let reason = event.getattr("reason")?;
    let code: Option<u8> = if reason.is_none() { None } else { Some(reason.getattr("code")?.extract()?) };
    let selector: Option<Selector> = event.getattr("selector")?.extract()?;
    Ok(core::Event {
        sa: event.getattr("sa")?.extract()?,
        reason: DropReason::ALL.into_iter().find(|reason| Some(*reason as u8) == code),
        source: address(&event.getattr("source")?)?,
        destination: address(&event.getattr("destination")?)?,
        flow_label: event.getattr("flow_label")?.extract()?,
        mtu: event.getattr("mtu")?.extract()?,
        selector: selector.map(|selector| Box::new(selector.into())),
        ..core::Event::new(kind, event.getattr("now")?.extract()?)
    })
}

/// Reads 4 or 16 octets; none if there are not so many.
pub(crate) fn address(octets: &Bound<'_, PyAny>) -> PyResult<Option<IpAddr>> {
    let octets = octets.cast::<PyBytes>()?.as_bytes();
    Ok(<[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok())
}
