"""The bench of `make bench`: what others would pick, and this service, side by side in one run."""
