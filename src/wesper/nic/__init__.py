"""What a NIC can do with a packet that it has no key for: programs from the declarations, run by this kernel."""

from .steering import SteeringPlan, attach, flow_plans, program
from .xdp import Counter, FlowCount, XDPError, source

__all__ = ["Counter", "FlowCount", "SteeringPlan", "XDPError", "attach", "flow_plans", "program", "source"]
