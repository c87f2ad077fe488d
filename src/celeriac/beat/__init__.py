"""Beat: it sends periodic tasks when they are due. Any number of beats may run; one of them leads."""

from celeriac.app.definition import BeatLazyFunc
from celeriac.beat.scheduler import Scheduler
from celeriac.beat.service import Beat

PersistentScheduler = Scheduler
Service = Beat

__all__ = ["Beat", "BeatLazyFunc", "PersistentScheduler", "Scheduler", "Service"]
