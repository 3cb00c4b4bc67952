"""Leaves something of everything in the data directory."""

import modal

app = modal.App("kept")
volume = modal.Volume.from_name("kept", create_if_missing=True)
secret = modal.Secret.from_name("kept")


@app.function(volumes={"/data": volume.read_only()}, secrets=[secret])
def echo(value: bytes) -> bytes:
    return value
