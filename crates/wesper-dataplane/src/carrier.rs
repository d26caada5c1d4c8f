//! What workers ask of an engine, whichever protocol it runs: one that holds SAs, or PSP's gateway.
//!
//! A worker asks for its half once a batch; what it does with it is compiled for each kind.

use std::sync::Arc;

use wesper_core::engine::Engine;
use wesper_core::psp::gateway::{self, Gateway};
use wesper_core::receiver::Receiver;
use wesper_core::sender::{self, Route, Sender};
use wesper_core::verdict::DropReason;

use crate::join::Piece;

/// An engine of either kind.
#[derive(Clone)]
pub enum Carrier {
    /// Holds SAs.
    Sas(Arc<Engine>),
    /// PSP.
    Psp(Arc<Gateway>),
}

/// An outbound half.
pub(crate) trait Outbound {
    /// Octets that must be free before a packet.
    const HEADROOM: usize;
    /// Octets that must be free behind it and its padding.
    const TAILROOM: usize;

    fn route(&mut self, packet: &[u8], now: u64) -> Route;

    /// Protects a packet where it lies.
    fn encapsulate(&mut self, sa: u64, buf: &mut [u8], inner: Piece, now: u64) -> Result<Piece, DropReason>;
}

/// An inbound half.
pub(crate) trait Inbound {
    /// Opens a packet where it lies.
    fn decapsulate(&mut self, buf: &mut [u8], outer: Piece, now: u64) -> Result<Piece, DropReason>;
}

impl Outbound for Sender {
    const HEADROOM: usize = sender::HEADROOM;
    const TAILROOM: usize = sender::TAILROOM;

    #[inline]
    fn route(&mut self, packet: &[u8], now: u64) -> Route {
        Self::route(self, packet, now)
    }

    #[inline]
    fn encapsulate(&mut self, sa: u64, buf: &mut [u8], inner: Piece, now: u64) -> Result<Piece, DropReason> {
        let sealed = Self::encapsulate(self, sa, buf, inner.at, inner.len, now).map_err(|dropped| dropped.reason)?;
        Ok(Piece { at: sealed.start, len: sealed.len })
    }
}

impl Outbound for gateway::Sender {
    // Tunnels put no extension behind the cookie; where one is put, there is no room, and the packet is dropped.
    const HEADROOM: usize = 128;
    const TAILROOM: usize = gateway::TAILROOM;

    #[inline]
    fn route(&mut self, packet: &[u8], now: u64) -> Route {
        Self::route(self, packet, now)
    }

    #[inline]
    fn encapsulate(&mut self, sa: u64, buf: &mut [u8], inner: Piece, now: u64) -> Result<Piece, DropReason> {
        let sealed = Self::encapsulate(self, sa, buf, inner.at, inner.len, false, now);
        let sealed = sealed.map_err(|dropped| dropped.reason)?;
        Ok(Piece { at: sealed.start, len: sealed.len })
    }
}

impl Inbound for Receiver {
    #[inline]
    fn decapsulate(&mut self, buf: &mut [u8], outer: Piece, now: u64) -> Result<Piece, DropReason> {
        let opened = Self::decapsulate(self, buf, outer.at, outer.len, now)?;
        Ok(Piece { at: opened.start, len: opened.len })
    }
}

impl Inbound for gateway::Receiver {
    #[inline]
    fn decapsulate(&mut self, buf: &mut [u8], outer: Piece, _now: u64) -> Result<Piece, DropReason> {
        let opened = Self::decapsulate(self, buf, outer.at, outer.len)?;
        Ok(Piece { at: opened.start, len: opened.len })
    }
}
