"""Work in several processes: pools, and the share of one rank under torchrun."""
