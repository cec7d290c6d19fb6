"""Which containers run on this machine: what the runtimes' own files and sockets say, told to the controller.

A module a runtime (storage and podman, containerd, docker); census.py keeps what they say and tells what changed;
folders.py wakes them when a file changes, so that nothing ticks while nothing happens.
"""
