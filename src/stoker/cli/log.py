"""The server's own log: structlog to stderr, with the records of the libraries in the same form."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import Processor

from stoker.config import Settings

_CHATTY = ("alembic", "asyncio", "grpc", "uvicorn", "urllib3")


def configure_logging(settings: Settings) -> None:
    """Sets up both structlog and the standard library's logging for this process."""
    terminal, pretty = sys.stderr.isatty(), settings.pretty_log
    level = logging.getLevelName(settings.log_level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if pretty else "iso", utc=not pretty),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(pretty, terminal)],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _rendering(pretty: bool, terminal: bool) -> list[Processor]:
    if pretty:
        # Not the default's tracebacks, which show local variables: requests, secrets, tokens.
        return [
            structlog.dev.ConsoleRenderer(
                colors=terminal and not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
