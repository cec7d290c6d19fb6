"""The demonstration behind `make run` and `make demo`: a real incident on processes and namespaces of its own."""
