"""Stoker: a self-hosted server for Modal apps."""


def __getattr__(name: str) -> str:
    # Only when asked for: small programs of ours, which import a module or two, need not look through all installed packages.
    if name == "__version__":
        from importlib.metadata import version

        return version("stoker")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
