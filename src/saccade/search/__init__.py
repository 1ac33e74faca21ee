"""Search: which attention helps a network on a task, and where; the engine is Optuna."""

from saccade.search.execution import Observer
from saccade.search.finalists import FINALISTS, best_candidates
from saccade.search.limits import COSTS, Budget, Limit, format_amount
from saccade.search.procedure import search
from saccade.search.space import explore
from saccade.search.study import Study, open_study

__all__ = [
    "COSTS",
    "FINALISTS",
    "Budget",
    "Limit",
    "Observer",
    "Study",
    "best_candidates",
    "explore",
    "format_amount",
    "open_study",
    "search",
]
