"""Work in several processes: pools, and the remaining work of one rank."""
