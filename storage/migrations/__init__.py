"""The history of the tables. `storage.schema` runs it; `env.py` says how a revision is written."""
