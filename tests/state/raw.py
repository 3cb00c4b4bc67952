"""Calls RPCs as no client would by itself: with a chosen idempotency key, or as another try of an earlier call."""

from __future__ import annotations

import asyncio
from typing import Any

from grpclib.client import Channel
from modal_proto import api_grpc

from .conftest import StateServer


def call(
    state: StateServer, name: str, request: Any, *, key: str = "", attempt: int = 0, anonymous: bool = False
) -> Any:
    async def once() -> Any:
        channel = Channel("127.0.0.1", state.port)
        try:
            metadata = {"x-retry-attempt": str(attempt)}
            if key:
                metadata["x-idempotency-key"] = key
            if not anonymous:
                metadata |= {"x-modal-token-id": state.token[0], "x-modal-token-secret": state.token[1]}
            return await getattr(api_grpc.ModalClientStub(channel), name)(request, metadata=metadata, timeout=60)
        finally:
            channel.close()

    return asyncio.run(once())
