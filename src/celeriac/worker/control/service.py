"""The service: takes orders for one node, carries them out by the panel's commands, and answers."""

from __future__ import annotations

import difflib
import logging
import select
from typing import TYPE_CHECKING, Any

from celeriac.engines.remote import NO_REPLY, Order
from celeriac.exceptions import CeleriacError
from celeriac.worker.control import Panel, nok
from celeriac.worker.control.plain import plain
from celeriac.worker.control.state import State
from celeriac.worker.state import tell_of

if TYPE_CHECKING:
    from celeriac.worker.agent import Agent

logger = logging.getLogger("celeriac.worker.control")

PAUSE = 1.0
"""Seconds after which orders are taken again if taking them has failed in an unforeseen way."""


class Service:
    """Remote control of one node, on a thread of its agent."""

    def __init__(self, agent: Agent) -> None:
        self.app = agent.app
        self.state = State(agent)
        tell_of(self.state)

    def serve(self, stop: int) -> None:
        """Take orders until the file descriptor ``stop`` is readable, if the broker carries any."""
        serve = getattr(self.app.broker, "serve_orders", None)
        while serve is not None:
            try:
                serve(self.state.hostname, self.handle, stop)
            except Exception:
                logger.exception("Remote control has failed; trying again in %g s", PAUSE)
            if select.select([stop], [], [], PAUSE)[0]:
                return

    def handle(self, order: Order) -> Any:
        """Carry out an order if it is meant for this node; return the answer, or ``NO_REPLY``."""
        if not order.concerns(self.state.hostname):
            return NO_REPLY
        order.clock = self.app.clock.adjust(order.clock)
        command = Panel.data.get(order.method)
        if command is None:
            return nok(self._unknown(order.method))
        try:
            answer = command(self.state, **order.arguments)
            return answer if answer is NO_REPLY else plain(answer)
        except CeleriacError as error:
            logger.warning("The order %s could not be carried out: %s", order.method, error)
            return nok(str(error))
        except Exception as error:
            logger.exception("The order %s could not be carried out", order.method)
            return nok(repr(error))

    @staticmethod
    def _unknown(method: str) -> str:
        near = difflib.get_close_matches(method, Panel.data, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        logger.error("Received an order that is not known here: %r", method)
        return f"{KeyError(method)!r}: this worker has no command of that name{hint}"
