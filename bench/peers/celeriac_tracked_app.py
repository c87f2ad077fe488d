"""Celeriac with ``task_track_queued``: what telling queued, unknown and expired apart costs on Redis."""

from __future__ import annotations

from bench.peers.celeriac_app import app, enqueue, enqueue_bulk, enqueue_delayed, noop, round_trips

app.conf.task_track_queued = True

__all__ = ["app", "enqueue", "enqueue_bulk", "enqueue_delayed", "noop", "round_trips"]
