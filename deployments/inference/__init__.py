"""The inference core. Never imports Ray or FastAPI."""
