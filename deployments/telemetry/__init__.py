"""Logs and metrics: what operators see, and never a patient's data."""
