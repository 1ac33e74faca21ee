"""Lightning callbacks: the history of a run, and its preemption."""
