"""Work over processes: pools, and what is left for one rank."""
