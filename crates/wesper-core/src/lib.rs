//! The native engine's lower half: suites, AEAD, replay windows and SA tables.
//!
//! No I/O, no clock, no Python. Every entry point takes octets and, where it matters, the time.
#![deny(unsafe_code)]

pub mod aead;
pub mod hot;
pub mod replay;
mod rows;
pub mod sad;
pub mod suite;

pub use rows::Row;

#[cfg(test)]
mod vector_file;
