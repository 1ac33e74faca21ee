"""Profiling: parameters, floating point operations, latency and training memory of a model."""

from saccade.profiling.costs import Cost, cost, flops, latency
from saccade.profiling.mechanisms import MechanismCost, mechanism_cost
from saccade.profiling.saved_tensors import training_memory

__all__ = ["Cost", "MechanismCost", "cost", "flops", "latency", "mechanism_cost", "training_memory"]
