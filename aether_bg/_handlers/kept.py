"""The value that a handler returns: kept on the run, or dropped (docs/protocol.md, K1 and K2)."""

from __future__ import annotations

import logging
from typing import Any

from aether_bg._handlers.handlers import Handler
from aether_bg._handlers.payloads import check_json
from aether_bg._handlers.registry import Handlers
from aether_bg._rules.results import COMPLETED, Completed
from aether_bg.errors import InvalidPayload, NoResult, shown
from aether_bg.model import JobInfo

log = logging.getLogger("aether_bg")


def completed(handler: Handler, returned: Any, limit: int) -> Completed:
    """The result of an attempt that returned this value. `limit`: bytes of JSON."""
    if handler.returns is None:
        if returned is not None and not handler.told_of_result:
            handler.told_of_result = True
            log.debug("handler %r returned a value, which is not kept: it has no keep_result", handler.info.name)
        return COMPLETED
    try:
        value = check_json(handler.returns.to_json(returned, limit), limit, "a result")
        handler.returns.check_back(returned, value)
    except InvalidPayload as error:
        text = f"its result is not kept: {error}"
        log.error("handler %r completed, but %s", handler.info.name, text)
        return Completed(error=text)
    return Completed(result=value, has_result=True)


def as_returned(handlers: Handlers, job: JobInfo, value: Any) -> Any:
    """A stored result, converted to the type that its handler returns if that is registered here. Raises `NoResult`."""
    returns = handlers.compiled(job.handler_name).returns if job.handler_name in handlers else None
    if returns is None:
        return value
    try:
        return returns.load(value)
    except InvalidPayload as error:
        raise NoResult(
            f"the result of job {shown(job.job_name)}", f"it does not fit what its handler returns by now: {error}",
            "app.store.history(id) has it as it is stored.",
        ) from error  # fmt: skip
