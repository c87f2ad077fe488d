-- The store's tables, version 1. Keys: none. Arguments: none. Returns nothing.
--
-- A message is a row of payload (its envelope, written once) and exactly one row of ready, delayed, leased,
-- parked or dead, which is narrow and moves. Ids, places in line (seq) and tokens come from one counter,
-- state.serial, whose high part grows with every boot of the machine: a number is never given twice, even
-- when a power cut takes the last commits back.

CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    serial INTEGER NOT NULL,
    version INTEGER NOT NULL            -- of the operators' orders: revoked, paused, rate
);
INSERT INTO state (id, serial, version) VALUES (1, 0, 0);

CREATE TABLE queue (name TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE payload (id INTEGER PRIMARY KEY, body BLOB NOT NULL);

-- rank: the priority, smallest first. since: when it got ready. admitted: has its rate limit's token.
CREATE TABLE ready (
    queue TEXT NOT NULL, rank INTEGER NOT NULL, seq INTEGER NOT NULL,
    id INTEGER NOT NULL, since REAL NOT NULL, admitted INTEGER NOT NULL,
    PRIMARY KEY (queue, rank, seq)
) WITHOUT ROWID;

CREATE TABLE delayed (
    queue TEXT NOT NULL, due REAL NOT NULL, id INTEGER NOT NULL,
    rank INTEGER NOT NULL, task_id TEXT NOT NULL,
    PRIMARY KEY (queue, due, id)
) WITHOUT ROWID;
CREATE INDEX delayed_task ON delayed (task_id);

CREATE TABLE leased (
    token INTEGER PRIMARY KEY, owner INTEGER NOT NULL, queue TEXT NOT NULL, rank INTEGER NOT NULL,
    seq INTEGER NOT NULL, id INTEGER NOT NULL, since REAL NOT NULL, admitted INTEGER NOT NULL,
    once INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE parked (
    bucket TEXT NOT NULL, queue TEXT NOT NULL, seq INTEGER NOT NULL,
    id INTEGER NOT NULL, rank INTEGER NOT NULL, since REAL NOT NULL, task_id TEXT NOT NULL,
    PRIMARY KEY (queue, bucket, seq)
) WITHOUT ROWID;
CREATE INDEX parked_bucket ON parked (bucket);
CREATE INDEX parked_task ON parked (task_id);

CREATE TABLE dead (
    key INTEGER PRIMARY KEY, id INTEGER NOT NULL, queue TEXT NOT NULL, rank INTEGER NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, at REAL NOT NULL, task TEXT NOT NULL, task_id TEXT NOT NULL
);
CREATE INDEX dead_queue ON dead (queue, key);

-- One token every interval seconds; free: the epoch second of the next one.
CREATE TABLE bucket (name TEXT PRIMARY KEY, interval REAL NOT NULL, free REAL NOT NULL) WITHOUT ROWID;

-- request, answer: the last exchange's number and what it brought. boot, since: when it was attached.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, node TEXT NOT NULL, slots INTEGER NOT NULL,
    boot TEXT NOT NULL, since REAL NOT NULL,
    request INTEGER NOT NULL DEFAULT 0, answer TEXT NOT NULL DEFAULT ''
);
CREATE INDEX owner_node ON owner (node);

-- boot, beat: boot id and uptime of the last beat. seen: the same as an epoch second, for people.
CREATE TABLE node (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL,
    lease REAL NOT NULL, boot TEXT NOT NULL, beat REAL NOT NULL, seen REAL NOT NULL,
    fenced INTEGER NOT NULL DEFAULT 0, info BLOB NOT NULL
) WITHOUT ROWID;

-- payload is NULL while the task is only known to be queued (state NULL), or when its result has expired
-- and is remembered (state ''). expires: epoch second; not indexed, for every result would pay for what the
-- cleaning finds by a scan now and then.
CREATE TABLE result (id TEXT PRIMARY KEY, state TEXT, payload BLOB, expires REAL);

CREATE TABLE revoked (id TEXT PRIMARY KEY, version INTEGER NOT NULL, expires REAL NOT NULL, signal TEXT NOT NULL);
CREATE INDEX revoked_version ON revoked (version);
CREATE TABLE paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE rate (task TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
