"""Functions: their definitions in versions, and what of them the server acts on."""
