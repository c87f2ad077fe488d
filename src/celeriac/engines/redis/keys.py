"""Names of keys. Celery's own (queues, results) are spelt as Celery spells them; ours begin ``celeriac:``.

Per queue, all with the tag ``{queue}``:

=============================  ======  =====================================================================
``<queue>[sep<step>]``         LIST    ready messages, Celery's: pushed on the left, taken from the right
``{q}:returned``               LIST    values only to be brought to their end; claimed first
``{q}:delayed``                ZSET    member -> due (epoch seconds); ``\\0<bucket>`` stands for parked ones
``{q}:delayed:payload``        HASH    member -> value
``{q}:parked:<bucket>``        LIST    members in order (one without payload was cancelled); the bucket is a
                                       rate limit's name, or ``\\1<place>``
``{q}:parked``                 HASH    member -> value
``{q}:buckets``                SET     buckets with parked messages
``{q}:lease:<owner>``          HASH    token -> value
``{q}:lease:<owner>:places``   HASH    token -> place that the lease holds under a concurrency limit
``{q}:unique``                 ZSET    task id that holds a unique key -> when it ends at the latest (ms)
``{q}:dead``                   ZSET    key -> when (epoch seconds)
``{q}:dead:letters``           HASH    key -> ``<lane>|<JSON: reason, detail, task, id>\\n<envelope>``
``{q}:wake``                   ZSET    one member: a message may be ready (idle workers wait for it)
=============================  ======  =====================================================================

A *value* is ``<lane>|<flags>|<envelope>``; flags: ``a`` admitted by its rate limit, ``o`` must not run twice,
``p`` has a place, ``r`` belongs to ``returned``, ``u`` holds a unique key while it is delayed. For the whole
store:

=============================  ======  =====================================================================
``control``                    HASH    ``version``, ``token`` (last), ``tracked``, ``p:<queue>``, ``l:<task>``
``owner:<owner>``              HASH    ``seq``, ``answer``, ``node``, ``slots``, ``q:<queue>``, ``fenced``,
                                       ``places`` (it has held some), ``by``, ``partial``, ``partial:owed``
``owners:<node>``              SET     the node's owners
``orphans``                    SET     owners being recovered
``beats``                      ZSET    node -> last beat
``nodes``                      HASH    node -> ``NodeInfo`` as JSON
``gone:<node>``                STRING  the node was recovered by others
``recovered``                  STRING  when anyone last looked for dead nodes
``rate:<bucket>``              HASH    ``taken`` (when the last token was), ``interval``
``rate:<bucket>:queues``       SET     queues with messages parked for it
``place:<place>``              HASH    ``limit``, and token -> lease of each that holds a place
``place:<place>:queues``       SET     queues with messages parked for it
``unique:<key>``               HASH    ``id`` of the task that holds it, ``queue``, ``until``; expires
``holds:<id>``                 STRING  the unique key that the task holds; expires
``checkpoint:<id>``            STRING  what a task has kept for its next delivery; expires
``revoked``, ``revoked:until`` ZSET    id -> version, id -> when to forget it
``revoked:signal``             HASH    id -> the signal that ends it
``schedule:version``           HASH    ``version``, ``forgotten`` (the last removal that is not remembered)
``schedule:entries``           HASH    periodic task -> ``<enabled: 1 or 0>|<source>|<definition>``
``schedule:ticks``             HASH    the same -> ``<since>|<last due>|<last run>|<runs>|<skipped>|<id>``
``schedule:versions``          ZSET    the same -> version at which it changed last
``schedule:removed``           ZSET    the same -> version at which it was removed
``schedule:leader``            HASH    ``holder``, ``token``, ``expires``, ``ttl`` of the scheduler that leads
                                       (with a scope, the keys of the schedule end ``:<scope>``)
``history``                    LIST    attempts (``engines/attempts.py``), the newest first
``history:dropped``            STRING  how many have been dropped at its end
``queues``                     SET     queues we have seen
``bound:<exchange>``           HASH    for fanout exchanges: queue -> the node whose own it is, or ""
``exchanges:<node>``           SET     the exchanges to which it has bound queues of its own
``askers``                     ZSET    who asks workers something -> when others may clear up after it
``watcher``                    STRING  who watches the lists for foreign producers
=============================  ======  =====================================================================

In the results' database, beside Celery's keys of results, groups and chords (chords.lua tells of those):

=============================  ======  =====================================================================
``success:<id>``               STRING  the stored result is a SUCCESS, which its first bytes do not show
``tombstone:<id>``             STRING  there was a result
``queued:<id>``                STRING  the task was published (``task_track_queued``)
``chord:<group>``              STRING  the chord's body
``owed``                       ZSET    chord whose body is owed -> when it may be taken (again)
=============================  ======  =====================================================================
"""

from __future__ import annotations

from bisect import bisect

from celeriac.engines.redis.address import Address

RESULT = "celery-task-meta-"
GROUP = "celery-taskset-meta-"


class Keys:
    """Makes keys under one prefix."""

    def __init__(self, address: Address) -> None:
        self.prefix = address.prefix
        self.suffixes = [f"{address.sep}{step}" if step else "" for step in address.steps]
        """What the lists of the lanes end with, most urgent first."""
        self._steps = address.steps
        self._fanout = address.fanout_prefix.replace("{db}", str(address.db))
        self._patterns = address.fanout_patterns
        self._lines: dict[tuple[str, int], str] = {}

    def lane(self, priority: int | None) -> int:
        """The lane of a priority: the largest step that is not above it."""
        return max(bisect(self._steps, max(min(int(priority or 0), 9), 0)) - 1, 0)

    def line(self, queue: str, lane: int) -> str:
        """The list of a queue's lane."""
        name = self._lines.get((queue, lane))
        if name is None:
            name = self._lines[queue, lane] = self.prefix + queue + self.suffixes[lane]
        return name

    def lines(self, queue: str) -> list[str]:
        """All lists of a queue, most urgent first."""
        return [self.line(queue, lane) for lane in range(len(self.suffixes))]

    def of(self, queue: str, what: str) -> str:
        """One of our own keys of a queue."""
        return f"{self.prefix}celeriac:{{{queue}}}:{what}"

    def own(self, what: str) -> str:
        """One of our own keys of the whole store."""
        return f"{self.prefix}celeriac:{what}"

    def channel(self, exchange: str, routing_key: str = "") -> str:
        """The channel on which Celery's workers hear a fanout exchange."""
        key = f"/{routing_key}" if routing_key and self._patterns else ""
        return f"{self.prefix}{self._fanout}{exchange}{key}"

    def fanout(self, exchange: str, routing_key: str) -> str:
        """What stands in place of a queue in a script's arguments for a message to a fanout exchange."""
        return f"\0{exchange}\0{self.channel(exchange, routing_key)}"

    def bindings(self, exchange: str) -> str:
        """Kombu's set of the queues bound to an exchange; a member is ``key<sep>pattern<sep>queue``."""
        return f"{self.prefix}_kombu.binding.{exchange}"

    def result(self, task_id: str) -> str:
        """Celery's key of a result, which is also the name of the channel that announces it."""
        return f"{self.prefix}{RESULT}{task_id}"

    def group(self, group: str) -> str:
        """Celery's key of a group's list of results; with an ending, of what it keeps of a chord."""
        return f"{self.prefix}{GROUP}{group}"
