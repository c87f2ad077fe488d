"""Waiting for results: one thread and one pub/sub connection a process and engine.

1. Results of messages sent by this process come to its reply channel, subscribed once. If a Celery worker
   runs the task they do not: what has not come soon is subscribed as in 2 as well.
2. Any other id is subscribed by Celery's channel, the name of the result's key.
3. Whoever is interested first gets what is stored already, read once the subscription is confirmed.
4. After a reconnect, and every two seconds as the net, what is still awaited is read again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from redis import exceptions as errors

from celeriac.engines.readiness import drain, readable
from celeriac.engines.redis.address import Address
from celeriac.engines.redis.connection import Link, pack
from celeriac.engines.redis.keys import RESULT, Keys
from celeriac.exceptions import CeleriacError, OperationalError

logger = logging.getLogger(__name__)

Callback = Callable[[str, bytes], None]
NET: Final = 2.0
"""Seconds between two looks at everything that is awaited."""
NET_MOST: Final = 5000
"""Ids looked at each time, in turn."""
GRACE: Final = 0.03
"""Seconds a result may take to come to the reply channel before it is awaited by name too: most of our own
workers' are there by then, and cost no subscription of their own."""
GRACE_MOST: Final = 1000
"""An interest in more ids than this that are still open is not subscribed by name: it is left to the net."""
SILENCE: Final = 10.0
"""Seconds without a word after which the server is asked for one; as long again, and we connect anew."""
LONGEST_PAUSE: Final = 5.0
"""Seconds between two attempts to connect, at most."""


class Interest:
    """Interest in results (:class:`celeriac.engines.results.Subscription`)."""

    def __init__(self, listener: Listener, ids: list[str], channels: list[str], callback: Callback) -> None:
        self.ids = ids
        self.channels = channels
        """Of ``ids``, those that need a channel of their own."""
        self.callback: Callback | None = callback
        self._listener = listener
        self._told: dict[str, int] = {}

    def tell(self, task_id: str, payload: bytes) -> None:
        """Pass a state on, unless it was the last one told: it may come by more than one way."""
        callback, state = self.callback, hash(payload)
        if callback is None or self._told.get(task_id) == state:
            return
        self._told[task_id] = state
        try:
            callback(task_id, payload)
        except Exception:
            logger.exception("A callback for the result of %s failed", task_id)

    def open_ids(self) -> list[str]:
        """Those without a channel of their own of which nothing was heard."""
        known = {*self.channels, *self._told}
        return [task_id for task_id in self.ids if task_id not in known]

    def close(self) -> None:
        """End the interest. Safe to call twice."""
        if self.callback is not None:
            self.callback = None
            self._listener.remove(self)


class Listener:
    """The thread; started with the first interest."""

    def __init__(
        self, address: Address, keys: Keys, reply: str, fetch: Callable[[Sequence[str]], dict[str, bytes]]
    ) -> None:
        self._address = address
        self._keys = keys
        self._reply = reply
        self._fetch = fetch
        self._lock = threading.Lock()
        self._interests: dict[str, list[Interest]] = {}
        self._named: dict[str, int] = {}
        self._news: deque[Interest] = deque()
        self._dropped: deque[str] = deque()
        self._unconfirmed: dict[str, list[Interest]] = {}
        self._ready: list[tuple[str, Interest]] = []
        self._late: deque[tuple[float, Interest]] = deque()
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(self._mouth, False)

    def add(self, ids: list[str], channels: list[str], callback: Callback) -> Interest:
        """Note an interest in ``ids``; ``channels`` are those of them that are announced by key name only."""
        interest = Interest(self, ids, channels, callback)
        with self._lock:
            if self._closed:
                raise OperationalError("the engine is closed: no results can be waited for")
            for task_id in ids:
                self._interests.setdefault(task_id, []).append(interest)
            self._news.append(interest)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celeriac-results", daemon=True)
                self._thread.start()
        self._wake()
        return interest

    def remove(self, interest: Interest) -> None:
        """Forget an interest."""
        with self._lock:
            for task_id in interest.ids:
                others = self._interests.get(task_id)
                if others and interest in others:
                    others.remove(interest)
                    if not others:
                        del self._interests[task_id]
            self._dropped.extend(interest.channels)
        if interest.channels:
            self._wake()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors; in a forked child, where the thread does not exist, this is all there is."""
        if self._link is not None:
            self._link.close()
        for fd in (self._ear, self._mouth):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._ear = self._mouth = -1

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already
            os.write(self._mouth, b"1")

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._closed:
            try:
                self._link = Link(self._address)
                self._subscribe_all()
                pause = 0.0
                self._listen(self._link)
            except (CeleriacError, errors.RedisError, OSError) as error:
                if self._closed:
                    return
                logger.warning("Waiting for results: %s", error)
                if self._link is not None:
                    self._link.close()
                pause = min(LONGEST_PAUSE, (pause or 0.1) * 2)
                self._sleep(pause * random.uniform(0.5, 1.0))

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closed and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _subscribe_all(self) -> None:
        """On a new connection: subscribe everything, then everything must be read again."""
        assert self._link is not None
        with self._lock:
            interests = {id(item): item for items in self._interests.values() for item in items}
            self._news.clear()
            self._dropped.clear()
            self._named = {}
            self._unconfirmed = {}
            self._ready = []
            self._late.clear()
        self._send("SUBSCRIBE", [self._reply])
        self._unconfirmed[self._reply] = []
        for interest in interests.values():
            self._admit(interest)

    def _listen(self, link: Link) -> None:
        heard = next_look = time.monotonic()
        next_look += NET
        asked = False
        while not self._closed:
            until = min(next_look, self._late[0][0]) if self._late else next_look
            ready = readable((link.fileno, self._ear), max(0.0, until - time.monotonic()))
            now = time.monotonic()
            if self._ear in ready:
                drain(self._ear)
                self._take_news()
            if link.fileno in ready:
                heard, asked = now, False
                self._read_all(link)
            while self._late and self._late[0][0] <= now:
                self._subscribe_late(self._late.popleft()[1])
            self._tell_stored()
            if now >= next_look:
                next_look = now + NET
                self._look_again()
            if now - heard > SILENCE * 2:
                raise OperationalError(f"Redis at {self._address.masked} fell silent")
            if now - heard > SILENCE and not asked:
                asked = True
                self._send("PING", [])

    def _take_news(self) -> None:
        """Subscribe what has become interesting and unsubscribe what has ceased to be."""
        with self._lock:
            news = list(self._news)
            self._news.clear()
            dropped = list(self._dropped)
            self._dropped.clear()
        for interest in news:
            self._admit(interest)
        gone = []
        for task_id in dropped:
            left = self._named.get(task_id, 0) - 1
            if left > 0:
                self._named[task_id] = left
            elif self._named.pop(task_id, None):
                gone.append(self._keys.result(task_id))
        self._send("UNSUBSCRIBE", gone)

    def _admit(self, interest: Interest) -> None:
        own = set(interest.ids).difference(interest.channels)
        waiting = self._unconfirmed.get(self._reply)
        if waiting is not None and own:
            waiting.append(interest)
        else:
            self._ready += [(task_id, interest) for task_id in own]
        if own:
            self._late.append((time.monotonic() + GRACE, interest))
        self._subscribe_names(interest, interest.channels)

    def _subscribe_late(self, interest: Interest) -> None:
        """Whoever runs these tasks may be a Celery worker, which knows of no reply channel."""
        with self._lock:
            if interest.callback is None:
                return
            names = interest.open_ids()
            if len(names) > GRACE_MOST:
                return
            interest.channels = [*interest.channels, *names]
        self._subscribe_names(interest, names)

    def _subscribe_names(self, interest: Interest, ids: Sequence[str]) -> None:
        new = []
        for task_id in ids:
            channel = self._keys.result(task_id)
            self._named[task_id] = self._named.get(task_id, 0) + 1
            if self._named[task_id] == 1:
                new.append(channel)
                self._unconfirmed[channel] = [interest]
            elif channel in self._unconfirmed:
                self._unconfirmed[channel].append(interest)
            else:
                self._ready.append((task_id, interest))
        self._send("SUBSCRIBE", new)

    def _send(self, command: str, words: Sequence[str]) -> None:
        assert self._link is not None
        for start in range(0, len(words), 500):
            self._link.connection.send_packed_command([pack((command, *words[start : start + 500]))])
        if command == "PING":
            self._link.connection.send_packed_command([pack((command,))])

    def _read_all(self, link: Link) -> None:
        connection = link.connection
        while True:
            answer = connection.read_response()
            kind, channel, data = answer[0], answer[1], answer[-1]
            if kind == b"message":
                self._hear(channel.decode(), data)
            elif kind == b"subscribe":
                self._confirmed(channel.decode())
            if not connection.can_read(0):
                return

    def _hear(self, channel: str, data: bytes) -> None:
        if channel == self._reply:
            size, _, rest = data.partition(b":")
            length = int(size)
            task_id, payload = rest[:length].decode(), rest[length:]
        else:
            task_id, payload = channel.removeprefix(self._keys.prefix + RESULT), data
        with self._lock:
            interests = list(self._interests.get(task_id, ()))
        if not interests:
            return
        if payload:
            for interest in interests:
                interest.tell(task_id, payload)
        else:  # too large to come with its announcement
            self._ready += [(task_id, interest) for interest in interests]

    def _confirmed(self, channel: str) -> None:
        waiting = self._unconfirmed.pop(channel, [])
        if channel == self._reply:
            for interest in waiting:
                own = set(interest.ids).difference(interest.channels)
                self._ready += [(task_id, interest) for task_id in own]
        else:
            task_id = channel.removeprefix(self._keys.prefix + RESULT)
            self._ready += [(task_id, interest) for interest in waiting]

    def _tell_stored(self) -> None:
        """Read what is stored of ids whose subscription stands now, and pass it on."""
        if not self._ready:
            return
        ready, self._ready = self._ready, []
        stored = self._fetch(list(dict.fromkeys(task_id for task_id, _ in ready)))
        for task_id, interest in ready:
            payload = stored.get(task_id)
            if payload is not None:
                interest.tell(task_id, payload)

    def _look_again(self) -> None:
        """The net: read what is awaited, and pass on what nobody has told us of."""
        for task_id, payload in self._fetch(self._some_awaited()).items():
            with self._lock:
                interests = list(self._interests.get(task_id, ()))
            for interest in interests:
                interest.tell(task_id, payload)

    def _some_awaited(self) -> list[str]:
        with self._lock:
            ids: Iterable[str] = list(self._interests)
            chosen = list(ids)[:NET_MOST]
            if len(self._interests) > NET_MOST:  # to the end with them: the others are next
                for task_id in chosen:
                    self._interests[task_id] = self._interests.pop(task_id)
        return chosen
