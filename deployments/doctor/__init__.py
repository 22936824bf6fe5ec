"""`medai doctor`: what is wrong with an installation, and the one step that mends each fault."""
