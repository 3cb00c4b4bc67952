"""Images that cannot be built."""

import modal

app = modal.App("broken-images")
failing = modal.Image.debian_slim(python_version="3.11").run_commands("echo a word before; echo the reason >&2; exit 7")
unknown = modal.Image.from_registry("nobody.invalid/no/such:image")


@app.function(image=failing)
def failing_step() -> None: ...


other = modal.App("broken-base")


@other.function(image=unknown)
def unknown_base() -> None: ...
