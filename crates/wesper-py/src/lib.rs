//! Python bindings of the wesper native engine: the extension module `wesper._native`, and nothing else.
//!
//! Everything with a decision lives in `wesper-core` or in Python; here are only conversions at the border.

use pyo3::prelude::*;

/// The native engine, batch by batch.
#[pymodule]
mod _native {
    use super::*;

    /// Return the version of the native engine, the same as that of the Python package it was built with.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}
