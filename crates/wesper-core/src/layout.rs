//! How the usual packet of a protocol is laid out between IP header and payload: without options, nothing in the clear,
//! an IV of eight octets that is the sequence number. One type each, so that each has a straight line of its own.

use crate::aead::{Context, OpenError, SealError};
use crate::eesp;
use crate::esp::{self, Form, Input, Numbers};
use crate::form::{self, Content};
use crate::verdict::DropReason;

/// A protocol whose packets [`Laid`] describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// SPI, sequence number, IV.
    Esp,
    /// WESPv2's header in front of that.
    WespV2,
    /// EESP's header, its Session ID, all of the number, IV; no trailer.
    Eesp,
}

/// Where things are in a usual packet, and what its cipher wants.
pub(crate) trait Laid {
    /// Octets between IP header and payload.
    const FRONT: usize;
    /// Flows are named in the header.
    const IS_NAMED: bool = false;

    /// Octets of the ciphertext.
    fn body_octets(payload: usize) -> usize;

    /// Writes all that stands around a payload but the ICV, and returns what the cipher wants; none if a length is another.
    ///
    /// front: [`Self::FRONT`] octets and more in front of them. body: [`Self::body_octets`].
    fn frame(
        form: &Form,
        numbers: Numbers,
        session: u16,
        next_header: u8,
        payload: usize,
        front: &mut [u8],
        body: &mut [u8],
    ) -> Option<Input>;

    /// Encrypts. before: what stands in front of the body.
    #[inline(always)]
    fn seal(input: &Input, context: &Context, before: &[u8], body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        let _ = before;
        input.seal(context, body, icv)
    }

    /// Checks the ICV and decrypts. before: what stands in front of the body.
    #[inline(always)]
    fn open(input: &Input, context: &Context, before: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        let _ = before;
        input.open(context, body, icv)
    }

    /// Finds the payload in an authentic body.
    #[inline(always)]
    fn found(form: &form::Form, body: &[u8], check_padding: bool) -> Found {
        let _ = form;
        let (next_header, octets) = esp::usual_trailer(body).unwrap_or_else(|| esp::trailer(body, check_padding));
        Found { next_header, at: 0, octets, reason: DropReason::BadPadding }
    }
}

/// A payload, or why there is none: plain values, so that each protocol's constants are known where they are used.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) next_header: u8,
    /// Where in the body it begins.
    pub(crate) at: usize,
    /// None: there is a reason to drop the packet.
    pub(crate) octets: Option<usize>,
    pub(crate) reason: DropReason,
}

/// [`Layout::Esp`].
pub(crate) struct Esp;
/// [`Layout::WespV2`].
pub(crate) struct WespV2;
/// [`Layout::Eesp`].
pub(crate) struct Eesp;

impl Laid for Esp {
    const FRONT: usize = esp::USUAL_FRONT;

    #[inline(always)]
    fn body_octets(payload: usize) -> usize {
        Form::usual_body(payload)
    }

    #[inline(always)]
    fn frame(
        form: &Form,
        numbers: Numbers,
        _session: u16,
        next_header: u8,
        payload: usize,
        front: &mut [u8],
        body: &mut [u8],
    ) -> Option<Input> {
        Form::frame_usual(numbers, next_header, payload, front.last_chunk_mut()?, body)?;
        Some(form.usual_input(numbers, numbers.sequence))
    }
}

impl Laid for WespV2 {
    const FRONT: usize = esp::USUAL_WESPV2_FRONT;

    #[inline(always)]
    fn body_octets(payload: usize) -> usize {
        Form::usual_body(payload)
    }

    #[inline(always)]
    fn frame(
        form: &Form,
        numbers: Numbers,
        _session: u16,
        next_header: u8,
        payload: usize,
        front: &mut [u8],
        body: &mut [u8],
    ) -> Option<Input> {
        let (wrap, front) = front.last_chunk_mut::<{ Self::FRONT }>()?.split_first_chunk_mut()?;
        *wrap = esp::USUAL_WESPV2.to_be_bytes();
        Form::frame_usual(numbers, next_header, payload, front.last_chunk_mut()?, body)?;
        Some(form.usual_wespv2_input(numbers, numbers.sequence))
    }
}

impl Laid for Eesp {
    const FRONT: usize = esp::USUAL_EESP_FRONT;
    const IS_NAMED: bool = true;

    #[inline(always)]
    fn body_octets(payload: usize) -> usize {
        payload.next_multiple_of(4)
    }

    #[inline(always)]
    fn frame(
        _form: &Form,
        numbers: Numbers,
        session: u16,
        _next_header: u8,
        payload: usize,
        front: &mut [u8],
        body: &mut [u8],
    ) -> Option<Input> {
        eesp::frame_usual(numbers, session, payload, front.last_chunk_mut()?, body)?;
        Some(Input::bare(numbers.salt, numbers.sequence))
    }

    #[inline(always)]
    fn seal(input: &Input, context: &Context, before: &[u8], body: &mut [u8], icv: &mut [u8]) -> Result<(), SealError> {
        let head = before.last_chunk::<{ Self::FRONT }>().ok_or(SealError::BodyLength)?;
        input.seal_behind(context, head, body, icv)
    }

    #[inline(always)]
    fn open(input: &Input, context: &Context, before: &[u8], body: &mut [u8], icv: &[u8]) -> Result<(), OpenError> {
        let head = before.last_chunk::<{ Self::FRONT }>().ok_or(OpenError)?;
        input.open_behind(context, head, body, icv)
    }

    #[inline(always)]
    fn found(form: &form::Form, body: &[u8], check_padding: bool) -> Found {
        let content = eesp::usual_content(body).map_or_else(|| form.bare_content(body, check_padding), Ok);
        match content {
            Ok(Content { next_header, at, octets }) => {
                Found { next_header, at, octets: Some(octets), reason: DropReason::BadInner }
            }
            Err(reason) => Found { next_header: 0, at: 0, octets: None, reason },
        }
    }
}
