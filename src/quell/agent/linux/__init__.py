"""The agent's hands on Linux: pidfds, namespaces and nftables, by system calls and netlink, without a shell."""
