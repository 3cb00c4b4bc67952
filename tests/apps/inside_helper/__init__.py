"""A package of the user that goes along with the app."""

WORDS = "the helper is here"
