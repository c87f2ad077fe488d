"""Small helpers, under the names that Celery's users import."""

from celeriac.app.state import get_current_task
from celeriac.message import new_id as uuid

__all__ = ["get_current_task", "uuid"]
