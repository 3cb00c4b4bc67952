"""`python -m stoker`, the same as the command `stoker`."""

from stoker.cli.main import app

if __name__ == "__main__":
    app()
