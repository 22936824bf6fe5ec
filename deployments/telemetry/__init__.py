"""Logs, metrics and traces: what operators see, and never a patient's data."""
