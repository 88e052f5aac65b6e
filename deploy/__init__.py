"""Scripts that bring Raydeck onto a machine. Nothing here is imported by the running product."""
