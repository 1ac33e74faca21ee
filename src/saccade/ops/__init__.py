"""Operations with a lower cost in memory or time than the plain form of their formula."""

from saccade.ops.choice import Choice, explain, implementation

__all__ = ["Choice", "explain", "implementation"]
