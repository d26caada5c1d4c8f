"""Vector files: known answers that engines are held to."""

from .case import EngineFactory, Failure
from .runner import FileReport, Record, run_file

__all__ = ["EngineFactory", "Failure", "FileReport", "Record", "run_file"]
