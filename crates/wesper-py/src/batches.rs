//! `wesper.engine.batch.Results` out of the engine's results, fast.

use std::mem::take;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use wesper_core::batch;

use crate::ffi::{self, Array};
use crate::pool::{Lease, Pool};

static BATCHES: PyOnceLock<Batches> = PyOnceLock::new();

/// What results of batches are made of.
pub(crate) struct Batches {
    frombuffer: Py<PyAny>,
    octets: Py<PyAny>,
    numbers: Py<PyAny>,
    packets: Class<2>,
    results: Class<5>,
}

struct Class<const N: usize> {
    class: Py<PyType>,
    names: [Py<PyString>; N],
}

impl<const N: usize> Class<N> {
    fn of(module: &Bound<'_, PyModule>, name: &str, fields: [&str; N]) -> PyResult<Self> {
        let names = fields.map(|field| PyString::intern(module.py(), field).unbind());
        Ok(Self { class: module.getattr(name)?.cast_into::<PyType>()?.unbind(), names })
    }

    fn make<'py>(&self, py: Python<'py>, values: [Bound<'py, PyAny>; N]) -> PyResult<Bound<'py, PyAny>> {
        ffi::with_slots(self.class.bind(py), self.names.each_ref().map(|name| name.bind(py)), values)
    }
}

impl Batches {
    /// Looks the classes up, once.
    pub(crate) fn get(py: Python<'_>) -> PyResult<&Self> {
        BATCHES.get_or_try_init(py, || {
            let (numpy, module) = (py.import("numpy")?, py.import("wesper.engine.batch")?);
            let dtype = |name| Ok::<_, PyErr>(numpy.getattr("dtype")?.call1((name,))?.unbind());
            Ok(Self {
                frombuffer: numpy.getattr("frombuffer")?.unbind(),
                octets: dtype("uint8")?,
                numbers: dtype("uint64")?,
                packets: Class::of(&module, "Packets", ["data", "offsets"])?,
                results: Class::of(&module, "Results", ["packets", "codes", "sas", "sequences", "flows"])?,
            })
        })
    }

    /// Works on a batch without the GIL, in memory of the pool's, and makes what came of it Python's, without a copy.
    ///
    /// What the engine says of packets and offsets needs no second look, so `Packets` takes none.
    pub(crate) fn run<'py>(
        &self,
        py: Python<'py>,
        pool: &Arc<Pool>,
        work: impl FnOnce(Vec<u8>) -> batch::Results + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut results = py.detach(|| work(pool.take()));
        let flows = results.take_flows();
        let [offsets, sas, sequences] = [&mut results.offsets, &mut results.sas, &mut results.sequences].map(take);
        let codes = take(&mut results.codes);
        let (memory, data) = results.into_memory();
        let data = self.array(py, Array::part(Lease::new(memory, pool), data), &self.octets)?;
        let packets = self.packets.make(py, [data, self.array(py, offsets, &self.numbers)?])?;
        let codes = self.array(py, codes, &self.octets)?;
        let [sas, sequences, flows] = [sas, sequences, flows].map(|numbers| self.array(py, numbers, &self.numbers));
        self.results.make(py, [packets, codes, sas?, sequences?, flows?])
    }

    fn array<'py>(&self, py: Python<'py>, items: impl Into<Array>, kind: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.frombuffer.bind(py).call1((items.into(), kind.bind(py)))
    }
}
