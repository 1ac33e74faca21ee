"""Results: every file that a run or a comparison leaves on disk."""
