"""The value that a handler returns: kept on the run, or dropped (docs/protocol.md, K1 and K2)."""

from __future__ import annotations

import logging
from typing import Any

from aether_bg._handlers.handlers import Handler
from aether_bg._handlers.payloads import check_json
from aether_bg._rules.results import COMPLETED, Completed
from aether_bg.errors import InvalidPayload

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
