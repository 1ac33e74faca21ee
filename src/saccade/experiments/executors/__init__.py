"""Executors that train the runs of a comparison outside of this process."""
