"""The systems under test, one module each: an application with a no-op task, and its client's side.

Each module is imported by the worker of its own system and by ``bench.driver``, in its environment, and has

* ``enqueue(count)``: send that many tasks one by one;
* ``enqueue_bulk(count)``: send them as fast as the documented interface can;
* ``round_trips(count)``: call a task and wait for its result, one after the other; return each one's seconds.

``BENCH_BROKER`` and ``BENCH_RESULTS`` name the stores.
"""
