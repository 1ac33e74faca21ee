"""Objectives: what a run minimizes, and how it then predicts."""
