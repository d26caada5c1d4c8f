//! Python bindings of the wesper native engine: the extension module `wesper._native`, and nothing else.
//!
//! Everything with a decision lives in `wesper-core` or in Python; here are only conversions at the border.
#![deny(unsafe_code)]

use pyo3::prelude::*;

mod algorithms;
mod batches;
mod bench;
mod dataplane;
mod describe;
mod engine;
mod events;
mod ffi;
mod formats;
mod gateway;
mod policies;
mod pool;
mod profiles;
mod psp;
mod verdicts;

/// The native engine, batch by batch.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::algorithms::{associated, cbc, hmac, open, seal, shard_of, stateless_key, sub_sa_key};
    #[pymodule_export]
    use crate::bench::{
        EspBench, FreshBench, LookupBench, ProviderBench, PspBench, TableBench, bare_block_nanoseconds,
        expand_nanoseconds,
    };
    #[pymodule_export]
    use crate::dataplane::Dataplane;
    #[pymodule_export]
    use crate::describe::{cpu_flags, providers, version};
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::ffi::Array;
    #[pymodule_export]
    use crate::gateway::PspGateway;
    #[pymodule_export]
    use crate::profiles::Profile;
    #[pymodule_export]
    use crate::psp::{PspEngine, PspGuard, PspProfile, PspTable, psp_derive_key, psp_derive_keys, psp_input_blocks};
}
