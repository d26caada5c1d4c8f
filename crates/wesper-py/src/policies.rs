//! Selectors and policies out of `wesper.sa`'s data classes, and selectors back.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use wesper_core::selectors as core;
use wesper_core::spd;

#[derive(FromPyObject)]
struct AddressRange {
    version: u8,
    first: u128,
    last: u128,
}

/// A `wesper.Selector`.
#[derive(FromPyObject)]
pub(crate) struct Selector {
    local: Vec<AddressRange>,
    remote: Vec<AddressRange>,
    protocol: Option<u8>,
    local_ports: Ports,
    remote_ports: Ports,
}

/// None, a pair, or the one member of `Opaque`.
struct Ports(core::Ports);

impl<'py> FromPyObject<'_, 'py> for Ports {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Self(core::Ports::Any));
        }
        if object.is_instance_of::<PyTuple>() {
            let (first, last) = object.extract()?;
            return Ok(Self(core::Ports::Range(first, last)));
        }
        Ok(Self(core::Ports::Opaque))
    }
}

impl From<Selector> for core::Selector {
    fn from(given: Selector) -> Self {
        let ranges = |ranges: Vec<AddressRange>| {
            ranges.into_iter().map(|AddressRange { version, first, last }| core::AddressRange { version, first, last })
        };
        Self {
            local: ranges(given.local).collect(),
            remote: ranges(given.remote).collect(),
            protocol: given.protocol,
            local_ports: given.local_ports.0,
            remote_ports: given.remote_ports.0,
        }
    }
}

/// Returns the `wesper.Selector` that this is.
pub(crate) fn to_python<'py>(py: Python<'py>, selector: &core::Selector) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import("wesper.sa")?;
    let range = module.getattr("AddressRange")?.cast_into::<PyType>()?;
    let ranges = |ranges: &[core::AddressRange]| -> PyResult<Bound<'py, PyTuple>> {
        let each = ranges.iter().map(|r| range.call1((r.version, r.first, r.last)));
        PyTuple::new(py, each.collect::<PyResult<Vec<_>>>()?)
    };
    let ports = |ports: core::Ports| match ports {
        core::Ports::Any => Ok(py.None().into_bound(py)),
        core::Ports::Opaque => module.getattr("OPAQUE"),
        core::Ports::Range(first, last) => Ok((first, last).into_pyobject(py)?.into_any()),
    };
    module.getattr("Selector")?.call1((
        ranges(&selector.local)?,
        ranges(&selector.remote)?,
        selector.protocol,
        ports(selector.local_ports)?,
        ports(selector.remote_ports)?,
    ))
}

/// Reads a sequence of `wesper.Policy`.
pub(crate) fn policies(given: &Bound<'_, PyAny>) -> PyResult<Vec<spd::Policy>> {
    given.try_iter()?.map(|policy| convert(&policy?)).collect()
}

fn convert(policy: &Bound<'_, PyAny>) -> PyResult<spd::Policy> {
    let action: String = policy.getattr("action")?.getattr("value")?.extract()?;
    let action = match action.as_str() {
        "protect" => spd::Action::Protect,
        "bypass" => spd::Action::Bypass,
        "discard" => spd::Action::Discard,
        other => return Err(PyValueError::new_err(format!("the native engine knows no action {other:?}"))),
    };
    let selectors: Vec<Selector> = policy.getattr("selectors")?.extract()?;
    let mut sas = Vec::new();
    for choice in policy.getattr("sas")?.try_iter()? {
        let (values, sa): (Bound<'_, PyAny>, u64) = choice?.extract()?;
        sas.push((dscp_set(&values)?, sa));
    }
    let populate = policy.getattr("populate_from_packet")?;
    let takes = |name: &str| populate.contains(name);
    Ok(spd::Policy {
        action,
        selectors: selectors.into_iter().map(Into::into).collect(),
        sas,
        from_packet: core::FromPacket {
            local: takes("local")?,
            remote: takes("remote")?,
            protocol: takes("protocol")?,
            local_ports: takes("local_ports")?,
            remote_ports: takes("remote_ports")?,
        },
    })
}

/// None is every value; values that no packet can have are left out.
fn dscp_set(values: &Bound<'_, PyAny>) -> PyResult<spd::DscpSet> {
    if values.is_none() {
        return Ok(spd::DscpSet::ALL);
    }
    let mut set = 0;
    for value in values.try_iter()? {
        let value: u64 = value?.extract()?;
        set |= if value < 64 { 1 << value } else { 0 };
    }
    Ok(spd::DscpSet(set))
}
