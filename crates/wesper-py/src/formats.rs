//! Settings that one protocol has alone, out of `wesper.WESPv2Format` and `wesper.EESPFormat`.

use pyo3::prelude::*;
use wesper_core::crypt_offset as core;
use wesper_core::eesp::kdf::Sskdf;
use wesper_core::eesp::{self, Stateless, SubSas};
use wesper_core::flow_identifier as flows;
use wesper_core::profile::Format;
use wesper_core::wespv2;

use crate::profiles::{unknown, value_of};

/// The settings of a profile; none are Python's None.
pub(crate) fn format(profile: &Bound<'_, PyAny>) -> PyResult<Format> {
    let format = profile.getattr("format")?;
    if format.is_none() {
        return Ok(Format::Plain);
    }
    match format.getattr("protocol")?.extract::<String>()?.as_str() {
        "wespv2" => wespv2(&format).map(Format::WespV2),
        "eesp" => eesp(&format).map(Format::Eesp),
        other => Err(unknown("format", other)),
    }
}

fn wespv2(format: &Bound<'_, PyAny>) -> PyResult<wespv2::Settings> {
    let octets: u8 = format.getattr("flow_identifier_octets")?.extract()?;
    Ok(wespv2::Settings {
        crypt_offset: crypt_offset(&format.getattr("crypt_offset")?)?,
        max_crypt_offset: format.getattr("max_crypt_offset_octets")?.extract()?,
        crypt_offset_limit: format.getattr("crypt_offset_limit")?.extract()?,
        flow_identifier: given(format, "flow_identifier", flow_policy)?.map(|policy| (policy, octets)),
        options: options(format)?,
    })
}

fn eesp(format: &Bound<'_, PyAny>) -> PyResult<eesp::Settings> {
    Ok(eesp::Settings {
        sequence_numbers: format.getattr("sequence_numbers")?.extract()?,
        crypt_offset: given(format, "crypt_offset", crypt_offset)?,
        max_crypt_offset: format.getattr("max_crypt_offset_octets")?.extract()?,
        crypt_offset_limit: format.getattr("crypt_offset_limit")?.extract()?,
        session: flow_policy(&format.getattr("session")?)?,
        sub_sas: given(format, "sub_sas", sub_sas)?,
        stateless: given(format, "stateless", stateless)?,
        options: options(format)?,
        ip_protocol: format.getattr("ip_protocol")?.extract()?,
    })
}

/// A setting that may be None.
fn given<'py, T>(
    format: &Bound<'py, PyAny>,
    name: &str,
    read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    let value = format.getattr(name)?;
    if value.is_none() { Ok(None) } else { read(&value).map(Some) }
}

fn crypt_offset(policy: &Bound<'_, PyAny>) -> PyResult<core::CryptOffset> {
    let exposure = match value_of(policy, "exposure")?.as_str() {
        "none" => core::Exposure::None,
        "l3" => core::Exposure::L3,
        "l3+l4" => core::Exposure::L3L4,
        "octets" => core::Exposure::Octets,
        other => return Err(unknown("exposure", other)),
    };
    let expose_payload = policy.getattr("expose_payload")?.extract()?;
    Ok(core::CryptOffset { exposure, octets: policy.getattr("octets")?.extract()?, expose_payload })
}

fn flow_policy(policy: &Bound<'_, PyAny>) -> PyResult<flows::FlowPolicy> {
    let value = policy.getattr("value")?;
    Ok(match value_of(policy, "kind")?.as_str() {
        "fixed" => flows::FlowPolicy::Fixed(value.extract()?),
        "5-tuple" => flows::FlowPolicy::FiveTuple,
        "dscp" => flows::FlowPolicy::Dscp,
        "cpu" => flows::FlowPolicy::Cpu(value.extract()?),
        "mark" => flows::FlowPolicy::Mark,
        other => return Err(unknown("flow policy", other)),
    })
}

fn sub_sas(settings: &Bound<'_, PyAny>) -> PyResult<SubSas> {
    let kdf: String = settings.getattr("kdf")?.extract()?;
    Ok(SubSas {
        kdf: Sskdf::by_name(&kdf).ok_or_else(|| unknown("KDF", &kdf))?,
        max_id: settings.getattr("max_id")?.extract()?,
        peer_max_id: settings.getattr("sendable_max_id")?.extract()?,
        key_octets: settings.getattr("key_octets")?.extract()?,
        first_port: settings.getattr("first_port")?.extract()?,
    })
}

fn stateless(group: &Bound<'_, PyAny>) -> PyResult<Stateless> {
    Ok(Stateless { device: group.getattr("device_id")?.extract()?, indexes: bytes(&group.getattr("indexes")?)? })
}

/// A tuple of numbers up to 255.
fn bytes(numbers: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    numbers.try_iter()?.map(|number| number?.extract()).collect()
}

fn options(format: &Bound<'_, PyAny>) -> PyResult<Vec<(u8, Vec<u8>)>> {
    let options = format.getattr("options")?;
    let read = |option: Bound<'_, PyAny>| {
        let data: Vec<u8> = option.getattr("data")?.cast_into::<pyo3::types::PyBytes>()?.as_bytes().to_vec();
        Ok((option.getattr("type")?.extract()?, data))
    };
    options.try_iter()?.map(|option| read(option?)).collect()
}
