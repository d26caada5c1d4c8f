//! Profiles and SAs out of `wesper.sa`'s data classes.

use std::net::IpAddr;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use wesper_core::profile as core;
use wesper_core::protocol::Protocol;
use wesper_core::suite::Suite;

use crate::formats;
use crate::policies::Selector;

/// A profile on this side: what all SAs installed with it share.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct Profile {
    pub(crate) shared: Arc<core::Profile>,
}

#[pymethods]
impl Profile {
    /// Take over a `wesper.Profile`, which has checked itself.
    #[new]
    fn new(profile: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { shared: Arc::new(convert(profile)?) })
    }

    /// A number that no other profile has while this one lives.
    #[getter]
    fn address(&self) -> usize {
        address(&self.shared)
    }

    /// Whether anything but this handle holds it: an SA, as a rule.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }
}

/// A number that no other profile has while this one lives.
pub(crate) fn address(profile: &Arc<core::Profile>) -> usize {
    Arc::as_ptr(profile).addr()
}

/// An enum's member by its value.
pub(crate) fn value_of(object: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    object.getattr(name)?.getattr("value")?.extract()
}

/// What a version of Python's classes says that this build does not know.
pub(crate) fn unknown(what: &str, value: &str) -> PyErr {
    PyValueError::new_err(format!("the native engine knows no {what} {value:?}"))
}

#[derive(FromPyObject)]
pub(crate) struct Lifetime {
    seconds: Option<u64>,
    octets: Option<u64>,
    packets: Option<u64>,
    idle_seconds: Option<u64>,
}

impl From<Lifetime> for core::Lifetime {
    fn from(given: Lifetime) -> Self {
        let Lifetime { seconds, octets, packets, idle_seconds } = given;
        Self { seconds, octets, packets, idle_seconds }
    }
}

#[derive(FromPyObject)]
struct Pair {
    local: IpAddr,
    remote: IpAddr,
}

#[derive(FromPyObject)]
struct UdpEncapsulation {
    local_port: u16,
    remote_port: u16,
    checksum: Option<bool>,
}

#[derive(FromPyObject)]
struct OuterFields {
    local: IpAddr,
    remote: IpAddr,
    hop_limit: u8,
    dscp: Option<u8>,
    copy_ecn: bool,
    flow_label: Option<u32>,
    identification: Option<u16>,
    take_dscp: bool,
}

/// An outer header out of `wesper.Outer`.
pub(crate) fn outer(object: &Bound<'_, PyAny>) -> PyResult<core::Outer> {
    let OuterFields { local, remote, hop_limit, dscp, copy_ecn, flow_label, identification, take_dscp } =
        object.extract()?;
    let df = match value_of(object, "df")?.as_str() {
        "copy" => core::Df::Copy,
        "set" => core::Df::Set,
        "clear" => core::Df::Clear,
        other => return Err(unknown("DF policy", other)),
    };
    Ok(core::Outer { local, remote, hop_limit, df, dscp, copy_ecn, flow_label, identification, take_dscp })
}

fn convert(profile: &Bound<'_, PyAny>) -> PyResult<core::Profile> {
    let suite: String = profile.getattr("suite")?.extract()?;
    let protocol: String = profile.getattr("protocol")?.extract()?;
    let mode = match value_of(profile, "mode")?.as_str() {
        "transport" => core::Mode::Transport,
        "tunnel" => core::Mode::Tunnel,
        "beet" => core::Mode::Beet,
        "iptfs" => core::Mode::Iptfs,
        other => return Err(unknown("mode", other)),
    };
    let fragmentation = match value_of(profile, "fragmentation")?.as_str() {
        "before" => core::Fragmentation::Before,
        "after" => core::Fragmentation::After,
        other => return Err(unknown("fragmentation", other)),
    };
    let given = |name: &str| profile.getattr(name).map(|value| Some(value).filter(|value| !value.is_none()));
    let inner: Option<Pair> = profile.getattr("inner")?.extract()?;
    let around: Option<UdpEncapsulation> = profile.getattr("encapsulation")?.extract()?;
    let selectors: Vec<Selector> = profile.getattr("selectors")?.extract()?;
    let soft: Lifetime = profile.getattr("soft")?.extract()?;
    let hard: Lifetime = profile.getattr("hard")?.extract()?;
    Ok(core::Profile {
        suite: Suite::by_name(&suite).ok_or_else(|| unknown("suite", &suite))?.id,
        mode,
        outer: given("outer")?.map(|object| outer(&object)).transpose()?,
        inner: inner.map(|Pair { local, remote }| core::Inner { local, remote }),
        encapsulation: around.map(|UdpEncapsulation { local_port, remote_port, checksum }| core::UdpEncapsulation {
            local_port,
            remote_port,
            checksum,
        }),
        protocol: Protocol::by_name(&protocol).ok_or_else(|| unknown("protocol", &protocol))?,
        format: formats::format(profile)?,
        esn: profile.getattr("esn")?.extract()?,
        window: profile.getattr("window")?.extract()?,
        check_padding: profile.getattr("check_padding")?.extract()?,
        pad_to: profile.getattr("pad_to")?.extract()?,
        mtu: profile.getattr("mtu")?.extract()?,
        fragmentation,
        selectors: selectors.into_iter().map(Into::into).collect(),
        soft: soft.into(),
        hard: hard.into(),
        jitter: profile.getattr("jitter")?.extract()?,
        resynchronise: profile.getattr("resynchronise")?.extract()?,
    })
}
