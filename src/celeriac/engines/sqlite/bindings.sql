-- Exchanges: which queues are tied to them. Keys: none. Arguments: none. Returns nothing.
--
-- node: whose own the queue is; '' for queues that belong to nobody. A node's queues go with it.

CREATE TABLE binding (
    exchange TEXT NOT NULL, type TEXT NOT NULL, routing_key TEXT NOT NULL, queue TEXT NOT NULL,
    node TEXT NOT NULL,
    PRIMARY KEY (exchange, queue, routing_key)
) WITHOUT ROWID;
