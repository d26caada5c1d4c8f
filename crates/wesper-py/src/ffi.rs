//! Where PyO3's safe calls do not reach: buffers in, buffers out, and verdicts without their `__init__`.
//!
//! The only file of this crate with `unsafe` in it.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr::{NonNull, null_mut};

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::pool::Lease;

/// A contiguous buffer of Python's, held for the length of a call.
pub(crate) struct Input<T: Element> {
    buffer: PyBuffer<T>,
}

impl<T: Element> Input<T> {
    /// Takes hold of an object's buffer; fails if it is of other items or not contiguous.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the array is not contiguous"));
        }
        Ok(Self { buffer })
    }

    /// The items.
    pub(crate) fn items(&self) -> &[T] {
        if self.buffer.item_count() == 0 {
            return &[];
        }
        // SAFETY: the buffer is C-contiguous (checked in `of`), of `item_count` items of T (checked by
        // `PyBuffer::get`, which also checks alignment), and stays exported, so neither moved nor freed, for as long
        // as `self` lives. What is left is that no thread writes to it meanwhile. Under the GIL none can; while it is
        // released, `Packets` being a batch that is handed over forbids it, and a caller who writes all the same
        // changes packets that are on their way, as with every call of Python's that releases the GIL over a buffer.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast::<T>(), self.buffer.item_count()) }
    }
}

/// A contiguous, writable buffer of Python's, held for the length of a call.
pub(crate) struct Fillable<T: Element> {
    buffer: PyBuffer<T>,
}

impl<T: Element> Fillable<T> {
    /// Takes hold of an object's buffer; fails if it is of other items, not contiguous or not to be written.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::get(object)?;
        if !buffer.is_c_contiguous() || buffer.readonly() {
            return Err(PyBufferError::new_err("the array is not contiguous, or may not be written"));
        }
        Ok(Self { buffer })
    }

    /// The items.
    pub(crate) fn items(&mut self) -> &mut [T] {
        if self.buffer.item_count() == 0 {
            return &mut [];
        }
        // SAFETY: as in `Input::items`, and the buffer is writable (checked in `of`). The caller of a batch hands the
        // array over to be filled and looks at it again when the call is done; who does otherwise sees octets change.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast::<T>(), self.buffer.item_count()) }
    }
}

/// Octets, 32- or 64-bit numbers of a result, handed to NumPy as they lie.
#[pyclass(frozen, module = "wesper._native")]
pub(crate) struct Array {
    pointer: NonNull<c_void>,
    octets: usize,
    _memory: Memory,
}

/// What an array's pointer points into: on the heap, so it stays where it is when its owner is moved.
#[allow(dead_code, reason = "held only to be dropped with the array")]
enum Memory {
    Octets(Vec<u8>),
    Words(Vec<u32>),
    Numbers(Vec<u64>),
    Lease(Lease),
}

// SAFETY: an Array owns its memory alone and does nothing with it but lend it to Python and, in the end, drop it.
unsafe impl Send for Array {}
// SAFETY: shared references give nothing but the address, see above.
unsafe impl Sync for Array {}

impl From<Vec<u8>> for Array {
    fn from(mut items: Vec<u8>) -> Self {
        let (pointer, octets) = place(&mut items);
        Self { pointer, octets, _memory: Memory::Octets(items) }
    }
}

impl From<Vec<u32>> for Array {
    fn from(mut items: Vec<u32>) -> Self {
        let (pointer, octets) = place(&mut items);
        Self { pointer, octets, _memory: Memory::Words(items) }
    }
}

impl From<Vec<u64>> for Array {
    fn from(mut items: Vec<u64>) -> Self {
        let (pointer, octets) = place(&mut items);
        Self { pointer, octets, _memory: Memory::Numbers(items) }
    }
}

impl Array {
    /// Hands over part of what is on lease; it goes back when Python has no more use for it.
    pub(crate) fn part(mut lease: Lease, part: Range<usize>) -> Self {
        let (pointer, octets) = place(lease.memory().get_mut(part).unwrap_or_default());
        Self { pointer, octets, _memory: Memory::Lease(lease) }
    }
}

/// Where items lie, and in how many octets.
fn place<T>(items: &mut [T]) -> (NonNull<c_void>, usize) {
    let octets = size_of_val(items);
    (NonNull::from(items).cast(), octets)
}

#[pymethods]
impl Array {
    /// Lends the memory, writable: nothing on this side looks at it any more.
    ///
    /// # Safety
    /// Python calls this with a `view` to be filled in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let array = slf.get();
        let octets = ffi::Py_ssize_t::try_from(array.octets)?;
        // SAFETY: `view` is Python's to be filled in; the memory belongs to `slf`, to which the filled-in view keeps a
        // reference, and is neither moved nor freed before the last of them is gone.
        let done = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), array.pointer.as_ptr(), octets, 0, flags) };
        if done == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }

    fn __len__(&self) -> usize {
        self.octets
    }
}

/// Makes an instance of a class with slots, sets them and calls no `__init__`: for frozen data classes, whose own costs
/// more than to encrypt a packet.
///
/// class: a heap type whose `__new__` is object's.
pub(crate) fn with_slots<'py, const N: usize>(
    class: &Bound<'py, PyType>,
    names: [&Bound<'py, PyString>; N],
    values: [Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    // SAFETY: `class` is a type; PyType_GenericNew allocates an instance of it and looks at neither arguments. It
    // returns a new reference, or null with an exception set, which is what `from_owned_ptr_or_err` takes.
    let instance = unsafe {
        let new = ffi::PyType_GenericNew(class.as_type_ptr(), null_mut(), null_mut());
        Bound::from_owned_ptr_or_err(py, new)?
    };
    for (name, value) in names.into_iter().zip(values) {
        // SAFETY: three live objects; the call takes no reference over. A class that does not know the name makes it
        // fail with an exception, nothing worse.
        if unsafe { ffi::PyObject_GenericSetAttr(instance.as_ptr(), name.as_ptr(), value.as_ptr()) } != 0 {
            return Err(PyErr::fetch(py));
        }
    }
    Ok(instance)
}
