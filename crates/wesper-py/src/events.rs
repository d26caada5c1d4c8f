//! `wesper.Event` out of the engine's events, and back for those that are decided in Python.

use std::net::IpAddr;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes};
use wesper_core::events as core;

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
    ];
    let kind = module.getattr("EventKind")?.call1((event.kind.name(),))?;
    module.getattr("Event")?.call((kind, event.now), Some(&fields.into_py_dict(py)?))
}

/// Reads a `wesper.Event` of a kind that Python decides: an SA is wanted, or a path's MTU was learnt.
pub(crate) fn from_python(event: &Bound<'_, PyAny>) -> PyResult<core::Event> {
    let kind: String = event.getattr("kind")?.getattr("value")?.extract()?;
    let kind = [core::EventKind::Acquire, core::EventKind::MtuChanged].into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or_else(|| PyValueError::new_err("an event of a kind that the engine alone raises"))?;
    let selector: Option<Selector> = event.getattr("selector")?.extract()?;
    Ok(core::Event {
        sa: event.getattr("sa")?.extract()?,
        mtu: event.getattr("mtu")?.extract()?,
        selector: selector.map(|selector| Box::new(selector.into())),
        ..core::Event::new(kind, event.getattr("now")?.extract()?)
    })
}
