"""Logs as JSON lines."""

from __future__ import annotations

import contextvars
import json
import logging
from datetime import datetime, timezone

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


class JsonLines(logging.Formatter):
    """One line for each record, an object: time, level, message, the request's id, and more."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "request_id": REQUEST_ID.get() or None,
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({k: v for k, v in line.items() if v is not None}, ensure_ascii=False)


def log_json_lines(level: int = logging.INFO) -> None:
    """Write all logs of this process to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("uvicorn.access", "httpx", "litserve", "ray"):
        logger = logging.getLogger(noisy)
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()  # lines of their own, which are no JSON
        logger.propagate = True
