"""One container from the wish to its end: what it is made of, how it starts, snapshots, and how it ended."""
