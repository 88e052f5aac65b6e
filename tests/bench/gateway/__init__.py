"""Parts of `make bench-gateway`: engine of no cost, systems in front of it, load generator, table."""
