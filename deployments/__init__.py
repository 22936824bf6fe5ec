"""What runs: the command line, the four Ray Serve shells, the API and the inference core."""
