"""Bench: what a model costs."""

from saccade.profiling.costs import Cost, cost, flops, latency

__all__ = ["Cost", "cost", "flops", "latency"]
