//! `wesper.verdict.Delivered` and `Dropped` out of the engine's answers, fast.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyType};
use wesper_core::engine;
use wesper_core::sender;
use wesper_core::verdict::{CODES, DropReason};

use crate::ffi;

static VERDICTS: PyOnceLock<Verdicts> = PyOnceLock::new();

/// What verdicts are made of. Drops are immutable, so one of each reason serves for all.
pub(crate) struct Verdicts {
    delivered: Py<PyType>,
    names: [Py<PyString>; 4],
    dropped: Py<PyType>,
    reasons: Vec<Option<Py<PyAny>>>,
    drops: Vec<Option<Py<PyAny>>>,
}

impl Verdicts {
    /// Looks the classes up, once.
    pub(crate) fn get(py: Python<'_>) -> PyResult<&Self> {
        VERDICTS.get_or_try_init(py, || {
            let module = py.import("wesper.verdict")?;
            let dropped = module.getattr("Dropped")?.cast_into::<PyType>()?;
            let by_code = module.getattr("REASON_BY_CODE")?.cast_into::<PyDict>()?;
            let mut reasons = Vec::with_capacity(CODES);
            let mut drops = Vec::with_capacity(CODES);
            for code in 0..CODES {
                let reason = by_code.get_item(code)?;
                drops.push(reason.as_ref().map(|reason| dropped.call1((reason,))).transpose()?.map(Bound::unbind));
                reasons.push(reason.map(Bound::unbind));
            }
            Ok(Self {
                delivered: module.getattr("Delivered")?.cast_into::<PyType>()?.unbind(),
                names: ["packet", "sa", "sequence", "flow"].map(|name| PyString::intern(py, name).unbind()),
                dropped: dropped.unbind(),
                reasons,
                drops,
            })
        })
    }

    /// A packet to pass on.
    pub(crate) fn delivered<'py>(
        &self,
        py: Python<'py>,
        verdict: engine::Delivered<Bound<'py, PyBytes>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let [packet, sa, sequence, flow] = self.names.each_ref().map(|name| name.bind(py));
        let values = [
            verdict.packet.into_any(),
            verdict.sa.into_pyobject(py)?.into_any(),
            verdict.sequence.into_pyobject(py)?.into_any(),
            verdict.flow.into_pyobject(py)?.into_any(),
        ];
        ffi::with_slots(self.delivered.bind(py), [packet, sa, sequence, flow], values)
    }

    /// A packet that goes no further.
    pub(crate) fn dropped<'py>(&self, py: Python<'py>, reason: DropReason) -> PyResult<Bound<'py, PyAny>> {
        let drop = self.drops.get(reason as usize).and_then(Option::as_ref);
        drop.map_or_else(|| self.dropped.bind(py).call1((self.reason(py, reason),)), |drop| Ok(drop.bind(py).clone()))
    }

    /// A packet that is not sent.
    pub(crate) fn not_sent<'py>(&self, py: Python<'py>, drop: sender::Dropped) -> PyResult<Bound<'py, PyAny>> {
        if drop.mtu == 0 {
            return self.dropped(py, drop.reason);
        }
        self.dropped.bind(py).call1((self.reason(py, drop.reason), drop.mtu))
    }

    /// The member of `DropReason`; None if Python does not know it.
    pub(crate) fn reason<'py>(&self, py: Python<'py>, reason: DropReason) -> Option<Bound<'py, PyAny>> {
        self.reasons.get(reason as usize)?.as_ref().map(|found| found.bind(py).clone())
    }
}
