"""Lightning callbacks: the history of a run, and preemption by a signal."""
