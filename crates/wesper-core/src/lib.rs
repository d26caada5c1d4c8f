//! The native engine: suites, AEAD, replay windows, SA tables, ESP, policies.
//!
//! No I/O, no clock, no Python. Every entry point takes octets and, where it matters, the time.
#![deny(unsafe_code)]

pub mod aead;
pub mod batch;
pub mod bench;
pub mod crypt_offset;
mod derived;
pub mod ecn;
pub mod eesp;
pub mod engine;
pub mod esp;
pub mod events;
pub mod flow_identifier;
pub mod form;
pub mod hot;
pub mod ip;
mod layout;
mod life;
pub mod modes;
pub mod options;
mod pages;
pub mod profile;
mod profiles;
pub mod protocol;
pub mod psp;
pub mod receiver;
pub mod replay;
mod rows;
pub mod sad;
pub mod selectors;
pub mod sender;
mod serials;
mod siphash;
mod slab;
pub mod spd;
pub mod steering;
pub mod suite;
mod tally;
pub mod udp;
pub mod verdict;
pub mod wesp;
pub mod wespv2;

pub use rows::Row;

#[cfg(test)]
mod vector_file;
