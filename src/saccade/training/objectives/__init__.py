"""Objectives: what a run minimizes, and how its model predicts."""
