"""Profiling: parameters, floating point operations and latency of a model."""

from saccade.profiling.costs import Cost, cost, flops, latency

__all__ = ["Cost", "cost", "flops", "latency"]
