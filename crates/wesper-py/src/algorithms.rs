//! The engine's own algorithms, for known answers: what its SAs run on, without SA, mode or padding around it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use wesper_core::aead::{Associated, Context, Nonce, Provider};
use wesper_core::eesp::kdf::{MASTER_OCTETS, Origin, Sskdf, derive_stateless};
use wesper_core::suite::{Cipher, MAX_ICV_OCTETS, Mac, SUITES, Suite};

/// Why a key or IV is refused. Says nothing of it but its length.
fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn suite_of(name: &str) -> PyResult<&'static Suite> {
    Suite::by_name(name).ok_or_else(|| refused(format_args!("there is no suite {name:?}")))
}

/// The suite with this cipher and MAC; every MAC has one with each of CBC and NULL.
fn separate(cipher: Cipher, mac: Mac) -> PyResult<&'static Suite> {
    SUITES.iter().find(|suite| suite.cipher == cipher && suite.mac == Some(mac)).ok_or_else(|| refused("no such suite"))
}

fn nonce(suite: &Suite, salt: &[u8], iv: &[u8]) -> PyResult<Nonce> {
    if !suite.is_counter_based() {
        return Ok(Nonce::none());
    }
    if salt.len() != suite.salt_octets {
        return Err(refused(format_args!("{} does not take a salt of {} octets", suite.name, salt.len())));
    }
    let iv = iv.try_into().map_err(|_| refused(format_args!("an IV of {} octets, not 8", iv.len())))?;
    let mut padded = [0; 4];
    padded.iter_mut().zip(salt).for_each(|(place, octet)| *place = *octet);
    Ok(Nonce::counter(suite, padded, iv))
}

/// GMAC authenticates all of it; a context of GCM does that with whatever stands in front.
fn combined(suite: &Suite, key: &[u8]) -> PyResult<Context> {
    let gcm = if suite.cipher == Cipher::AesGmac { suite_of("aes-gcm-16")? } else { suite };
    Context::new(Provider::default(), gcm, key, &[]).map_err(refused)
}

/// Return what ESP authenticates in front of the ciphertext.
#[pyfunction]
pub(crate) fn associated<'py>(
    py: Python<'py>,
    suite: &str,
    spi: u32,
    sequence: u64,
    esn: bool,
    iv: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &wesper_core::esp::associated(suite_of(suite)?, spi, sequence, esn, iv)))
}

/// Return key, then salt of an EESP Sub SA, so many octets together.   Raises ValueError.
#[pyfunction]
pub(crate) fn sub_sa_key<'py>(
    py: Python<'py>,
    kdf: &str,
    root_key: &[u8],
    session_id: u16,
    octets: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let kdf = Sskdf::by_name(kdf).ok_or_else(|| refused(format_args!("there is no KDF {kdf:?}")))?;
    if root_key.len() != kdf.root_octets() || octets > 255 * kdf.root_octets() {
        return Err(refused(format_args!("{} does not take a root key of {} octets", kdf.name(), root_key.len())));
    }
    PyBytes::new_with(py, octets, |out| {
        kdf.derive(root_key, session_id, out);
        Ok(())
    })
}

/// Return key, then salt of a device's epoch in an EESP-SL-1 group.   master: 32 octets.   Raises ValueError.
#[pyfunction]
pub(crate) fn stateless_key<'py>(
    py: Python<'py>,
    master: &[u8],
    spi: u32,
    device: u64,
    epoch: u16,
) -> PyResult<Bound<'py, PyBytes>> {
    if master.len() != MASTER_OCTETS {
        return Err(refused(format_args!("a master key of {} octets, not {MASTER_OCTETS}", master.len())));
    }
    Ok(PyBytes::new(py, &derive_stateless(master, Origin { spi, device, epoch })[..]))
}

/// Return ciphertext and ICV.   Raises ValueError on a length that does not fit.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "the interface's own list")]
pub(crate) fn seal<'py>(
    py: Python<'py>,
    suite: &str,
    key: &[u8],
    salt: &[u8],
    auth_key: &[u8],
    iv: &[u8],
    associated: &[u8],
    plaintext: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let suite = suite_of(suite)?;
    let mut body = plaintext.to_vec();
    let mut icv = [0; MAX_ICV_OCTETS];
    let icv = &mut icv[..suite.icv_octets];
    if let Some(mac) = suite.mac {
        Context::new(Provider::default(), suite, key, auth_key).map_err(refused)?;
        body = through_cbc(mac, key, iv, body, false)?;
        icv.copy_from_slice(&tag(mac, auth_key, &[associated, &body].concat())?);
    } else {
        let (context, nonce) = (combined(suite, key)?, nonce(suite, salt, iv)?);
        let sealed = if suite.cipher == Cipher::AesGmac {
            context.seal(&nonce, Associated::front(&[associated, plaintext].concat()), &mut [], icv)
        } else {
            context.seal(&nonce, Associated::front(associated), &mut body, icv)
        };
        sealed.map_err(refused)?;
    }
    body.extend_from_slice(icv);
    Ok(PyBytes::new(py, &body))
}

/// Return the plaintext, None if the ICV does not fit.   Raises ValueError on a length that does not fit.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "the interface's own list")]
pub(crate) fn open<'py>(
    py: Python<'py>,
    suite: &str,
    key: &[u8],
    salt: &[u8],
    auth_key: &[u8],
    iv: &[u8],
    associated: &[u8],
    sealed: &[u8],
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let suite = suite_of(suite)?;
    let Some(octets) = sealed.len().checked_sub(suite.icv_octets) else { return Ok(None) };
    let (body, icv) = sealed.split_at(octets);
    let mut body = body.to_vec();
    if let Some(mac) = suite.mac {
        Context::new(Provider::default(), suite, key, auth_key).map_err(refused)?;
        // The context of a NULL suite compares, in constant time; it leaves the body as it is.
        let null = Context::new(Provider::default(), separate(Cipher::Null, mac)?, &[], auth_key).map_err(refused)?;
        if null.open(&Nonce::none(), Associated::front(associated), &mut body, icv).is_err() {
            return Ok(None);
        }
        body = through_cbc(mac, key, iv, body, true)?;
        return Ok(Some(PyBytes::new(py, &body)));
    }
    let (context, nonce) = (combined(suite, key)?, nonce(suite, salt, iv)?);
    let opened = if suite.cipher == Cipher::AesGmac {
        context.open(&nonce, Associated::front(&[associated, &body].concat()), &mut [], icv)
    } else {
        context.open(&nonce, Associated::front(associated), &mut body, icv)
    };
    Ok(opened.is_ok().then(|| PyBytes::new(py, &body)))
}

/// Return data, whole blocks, through AES-CBC without integrity.
#[pyfunction]
#[pyo3(signature = (key, iv, data, *, decrypt = false))]
pub(crate) fn cbc<'py>(
    py: Python<'py>,
    key: &[u8],
    iv: &[u8],
    data: &[u8],
    decrypt: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &through_cbc(Mac::HmacSha256, key, iv, data.to_vec(), decrypt)?))
}

/// Return the MAC of a suite with a separate one, cut to its ICV.
#[pyfunction]
pub(crate) fn hmac<'py>(py: Python<'py>, suite: &str, auth_key: &[u8], data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let suite = suite_of(suite)?;
    let mac = suite.mac.ok_or_else(|| refused(format_args!("{} has no separate MAC", suite.name)))?;
    Ok(PyBytes::new(py, &tag(mac, auth_key, data)?))
}

/// CBC as the suites with this MAC do it; no key: nothing.
///
/// The engine has no CBC without integrity, and is not given one for this: the MAC is made under a key of zeros and
/// thrown away.
fn through_cbc(mac: Mac, key: &[u8], iv: &[u8], mut data: Vec<u8>, decrypt: bool) -> PyResult<Vec<u8>> {
    if key.is_empty() {
        return Ok(data);
    }
    let zeros = vec![0; mac.key_octets()];
    let suite = separate(Cipher::AesCbc, mac)?;
    let context = Context::new(Provider::default(), suite, key, &zeros).map_err(refused)?;
    let iv: [u8; 16] = iv.try_into().map_err(|_| refused(format_args!("an IV of {} octets, not 16", iv.len())))?;
    if decrypt {
        let icv = tag(mac, &zeros, &[&iv[..], &data].concat())?;
        context.open(&Nonce::block(iv), Associated::front(&[]), &mut data, &icv).map_err(refused)?;
    } else {
        let mut icv = vec![0; suite.icv_octets];
        context.seal(&Nonce::block(iv), Associated::front(&[]), &mut data, &mut icv).map_err(refused)?;
    }
    Ok(data)
}

/// The MAC of data, cut to the ICV: what a NULL suite sends.
fn tag(mac: Mac, auth_key: &[u8], data: &[u8]) -> PyResult<Vec<u8>> {
    let suite = separate(Cipher::Null, mac)?;
    let context = Context::new(Provider::default(), suite, &[], auth_key).map_err(refused)?;
    let mut icv = vec![0; suite.icv_octets];
    context.seal(&Nonce::none(), Associated::front(data), &mut [], &mut icv).map_err(refused)?;
    Ok(icv)
}

/// The shard that an engine of so many opens a packet in.
#[pyfunction]
pub(crate) fn shard_of(packet: &[u8], shards: usize) -> usize {
    wesper_core::steering::shard_of(packet, shards)
}
