"""An app that cannot even be imported by the client."""

import modal

app = modal.App("broken-locally")
raise RuntimeError("cannot be imported anywhere")
