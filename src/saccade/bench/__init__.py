"""Bench: what a model costs."""

from saccade.bench.cost import Cost, cost, flops, latency

__all__ = ["Cost", "cost", "flops", "latency"]
