"""This host's network as the kernel keeps it: interfaces, addresses, routes, rules and offloads, asked over sockets."""
