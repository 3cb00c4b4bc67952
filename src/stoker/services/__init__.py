"""What the nouns do, in rooms; an arrow between rooms goes only down (see the contract in pyproject.toml)."""
