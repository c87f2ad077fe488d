"""Results: handles by which a caller waits for tasks and reads what came of them."""

from celeriac.app.state import allow_join_result, denied_join_result
from celeriac.app.waiting import RemoteTraceback, assert_will_not_block
from celeriac.result.async_result import AsyncResult
from celeriac.result.base import ResultBase
from celeriac.result.eager import EagerResult
from celeriac.result.group import GroupResult
from celeriac.result.progress import Progress
from celeriac.result.promise import Promise
from celeriac.result.sets import ResultSet
from celeriac.result.tuples import result_from_tuple

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "Progress",
    "Promise",
    "RemoteTraceback",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
