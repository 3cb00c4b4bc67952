"""Whether a data directory is whole (`stoker fsck`): what is damaged, what depends on it, and what of that can be healed."""
