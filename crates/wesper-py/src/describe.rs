//! What this build is and what it runs on.

use pyo3::prelude::*;
use wesper_core::aead::Provider;

/// Return the version of the native engine, the same as that of the Python package it was built with.
#[pyfunction]
pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Return the names of the AEAD providers of this build, the default first.
#[pyfunction]
pub(crate) fn providers() -> Vec<&'static str> {
    Provider::ALL.iter().map(|provider| provider.name()).collect()
}

/// Return the features of this processor that decide which code of a provider runs.
#[pyfunction]
pub(crate) fn cpu_flags() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! look_for {
            ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name) })* };
        }
        look_for!("aes", "pclmulqdq", "avx", "avx2", "avx512f", "avx512bw", "vaes", "vpclmulqdq", "gfni", "sha");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! look_for {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name) })* };
        }
        look_for!("aes", "pmull", "sha2", "sha3");
    }
    found
}
