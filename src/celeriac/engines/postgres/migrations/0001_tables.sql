-- The store's tables, version 1. Keys: none. Arguments: none. Returns nothing. "@" stands for the schema.
--
-- A message is a narrow row of message, which moves from state to state, and a row of payload (its envelope,
-- written once). A dead letter is a row of dead instead of one of message.

CREATE TABLE @meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE @state (
    id int PRIMARY KEY CHECK (id = 1),
    version bigint NOT NULL             -- of the operators' orders: revoked, paused, rate
) WITH (fillfactor = 20);
INSERT INTO @state (id, version) VALUES (1, 0);

CREATE SEQUENCE @serial;                -- ids, and places in line (seq)
CREATE SEQUENCE @claims;                -- tells claims of the same microsecond apart
CREATE SEQUENCE @number AS int CYCLE;   -- of owners

CREATE TABLE @queue (name text COLLATE "C" PRIMARY KEY);

CREATE TABLE @payload (id bigint PRIMARY KEY, body bytea NOT NULL);
ALTER TABLE @payload ALTER body SET STORAGE EXTERNAL;

-- state: 0 ready, 1 leased, 2 delayed, 3 parked for a rate limit's token, 5 parked for a place.
-- rank: the priority, smallest first. since: when it got ready. due: when it is to (delayed).
-- noted, a sum: 1 it has its rate limit's token, 2 it has a seat, 4 it must not run a second time.
-- token: of the last lease; it stays when the lease ends, so that the next one is greater. turn: who comes first
-- to a place. bucket: the rate limit or the place. task_id: of what is delayed or parked.
CREATE TABLE @message (
    id bigint NOT NULL, seq bigint NOT NULL, token bigint NOT NULL DEFAULT 0,
    since float8 NOT NULL, due float8, turn bigint, owner int,
    rank smallint NOT NULL, state smallint NOT NULL, noted smallint NOT NULL DEFAULT 0,
    queue text COLLATE "C" NOT NULL, bucket text COLLATE "C", task_id text COLLATE "C"
);
CREATE INDEX message_ready ON @message (queue, rank, seq) WHERE state = 0;
CREATE INDEX message_leased ON @message (owner, token) WHERE state = 1;
CREATE INDEX message_delayed ON @message (queue, due, id) WHERE state = 2;
CREATE INDEX message_parked ON @message (queue, bucket, seq) WHERE state = 3;
CREATE INDEX message_bucket ON @message (bucket) WHERE state = 3;
CREATE INDEX message_waiting ON @message (queue, bucket, turn) WHERE state = 5;
CREATE INDEX message_place ON @message (bucket, queue) WHERE state = 5;
CREATE INDEX message_task ON @message (task_id) WHERE task_id IS NOT NULL;

CREATE TABLE @dead (
    key bigint PRIMARY KEY, id bigint NOT NULL, queue text COLLATE "C" NOT NULL, rank smallint NOT NULL,
    reason text NOT NULL, detail text NOT NULL, at float8 NOT NULL, task text NOT NULL, task_id text NOT NULL
);
CREATE INDEX dead_queue ON @dead (queue, key);

-- One token every interval seconds; free: the epoch second of the next one.
CREATE TABLE @bucket (
    name text COLLATE "C" PRIMARY KEY, span float8 NOT NULL, free float8 NOT NULL
) WITH (fillfactor = 50);

-- A concurrency limit: a room with so many seats. Its row is locked by whoever counts or frees them.
CREATE TABLE @room (name text COLLATE "C" PRIMARY KEY, size int NOT NULL) WITH (fillfactor = 50);
CREATE TABLE @seat (message bigint, room text COLLATE "C", PRIMARY KEY (message, room));
CREATE INDEX seat_room ON @seat (room);

-- The owner's row is locked by every step that touches its leases.
CREATE TABLE @owner (
    id int PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE, node text COLLATE "C" NOT NULL,
    slots int NOT NULL, since float8 NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX owner_node ON @owner (node);

-- What an exchange brought: a row of its own, inserted and deleted, so that finding it costs the same
-- however many exchanges an old transaction elsewhere keeps from being vacuumed.
CREATE TABLE @answer (
    owner int, request bigint, first bigint NOT NULL, refused bigint[] NOT NULL, owed text[] NOT NULL,
    PRIMARY KEY (owner, request)
);

CREATE TABLE @node (
    id text COLLATE "C" PRIMARY KEY, host text NOT NULL, pid bigint NOT NULL, started float8 NOT NULL,
    lease float8 NOT NULL, seen float8 NOT NULL, fenced boolean NOT NULL DEFAULT false, info bytea NOT NULL
) WITH (fillfactor = 50);

-- payload is NULL while the task is only known to be queued (state NULL), or when its result has expired and
-- is remembered (state ''). expires: epoch second; not indexed, for every result would pay for what the
-- cleaning finds by a scan now and then.
CREATE TABLE @result (id text COLLATE "C" PRIMARY KEY, state text, payload bytea, expires float8)
    WITH (fillfactor = 90);

CREATE TABLE @revoked (
    id text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, expires float8 NOT NULL, signal text NOT NULL
);
CREATE INDEX revoked_version ON @revoked (version);
CREATE TABLE @paused (queue text COLLATE "C" PRIMARY KEY);
CREATE TABLE @rate (task text COLLATE "C" PRIMARY KEY, value text NOT NULL);

-- Unique keys. until: a value of Hold. due: of the delayed message with until = 'delayed'; the key is free when
-- that row is not delayed any more, which costs promoting nothing.
CREATE TABLE @held (
    key text COLLATE "C" PRIMARY KEY, task_id text COLLATE "C" NOT NULL, until text NOT NULL,
    expires float8 NOT NULL, message bigint NOT NULL, due float8
);
CREATE INDEX held_message ON @held (message);

CREATE TABLE @checkpoint (task_id text COLLATE "C" PRIMARY KEY, payload bytea NOT NULL, expires float8);
CREATE TABLE @task_group (name text COLLATE "C" PRIMARY KEY, payload bytea NOT NULL, expires float8);

-- missing: the header's size less the parts recorded; it means something once opened. state: 0 counting, 1 owed,
-- 2 done. The body stands apart: each part rewrites the chord's row.
CREATE TABLE @chord (
    id bigint PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE, state smallint NOT NULL DEFAULT 0,
    opened boolean NOT NULL DEFAULT false, missing bigint NOT NULL DEFAULT 0, expires float8,
    owed float8, taken float8, taken_by text
) WITH (fillfactor = 50);
CREATE INDEX chord_owed ON @chord (owed) WHERE state = 1;
CREATE TABLE @chord_body (chord bigint PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE @part (
    chord bigint NOT NULL, task_id text COLLATE "C" NOT NULL, id bigint NOT NULL, place int,
    payload bytea NOT NULL, PRIMARY KEY (chord, task_id)
);

-- node: whose own the queue is; '' for queues that belong to nobody. A node's queues go with it.
CREATE TABLE @binding (
    exchange text COLLATE "C", type text NOT NULL, routing_key text COLLATE "C", queue text COLLATE "C",
    node text COLLATE "C" NOT NULL, PRIMARY KEY (exchange, queue, routing_key)
);

-- scope: whose schedule it is. version grows with every change of an entry. forgotten: removals at this version and before may be forgotten.
CREATE TABLE @schedule (
    scope text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, forgotten bigint NOT NULL
) WITH (fillfactor = 20);

-- What an entry is. since: when it was first stored, or enabled again.
CREATE TABLE @entry (
    id bigint PRIMARY KEY DEFAULT nextval('@serial'), scope text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL, definition bytea NOT NULL, source text NOT NULL, enabled boolean NOT NULL, version bigint NOT NULL,
    since float8 NOT NULL, UNIQUE (scope, name)
);
CREATE INDEX entry_version ON @entry (scope, version);

-- How far it has come. It stands apart: a tick rewrites a narrow row.
CREATE TABLE @progress (
    entry bigint PRIMARY KEY, last_due float8, last_run float8, last_id text NOT NULL DEFAULT '',
    runs bigint NOT NULL DEFAULT 0, skipped bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Entries that are no more, with the version at which they were removed.
CREATE TABLE @removed (
    scope text COLLATE "C", name text COLLATE "C", version bigint NOT NULL, PRIMARY KEY (scope, name)
);
CREATE INDEX removed_version ON @removed (scope, version);

-- Who leads. expires: epoch second.
CREATE TABLE @term (
    scope text COLLATE "C" PRIMARY KEY, holder text NOT NULL, token bigint NOT NULL,
    expires float8 NOT NULL, ttl float8 NOT NULL
) WITH (fillfactor = 20);

-- Who sleeps until a message is ready, and who waits for results: hints, which may be lost with a crash.
CREATE UNLOGGED TABLE @waiter (
    id bigint PRIMARY KEY, owner int NOT NULL, channel text NOT NULL, queues text[] NOT NULL
);
CREATE UNLOGGED TABLE @listener (channel text PRIMARY KEY, seen float8 NOT NULL) WITH (fillfactor = 50);

-- Rows of these live for seconds: the server's defaults are for tables that grow.
ALTER TABLE @message SET (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 100000);
ALTER TABLE @payload SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 100000);
ALTER TABLE @answer SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
ALTER TABLE @waiter SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
