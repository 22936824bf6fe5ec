"""What a model is, what it accepts and what it may become. Pure: no I/O, no framework."""
