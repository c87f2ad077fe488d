-- Version 3: remote control, orders to workers and their answers, each for a moment. Keys: @ stands for the
-- schema. Arguments: none. Returns nothing.
--
-- All of it may be lost with a crash. expires, seen: epoch second by the server's clock.

CREATE UNLOGGED TABLE @remote_order (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, body bytea NOT NULL, reply text NOT NULL,
    expires float8 NOT NULL
);
CREATE UNLOGGED TABLE @remote_answer (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, reply text COLLATE "C" NOT NULL, body bytea NOT NULL,
    expires float8 NOT NULL
);
CREATE INDEX remote_answer_reply ON @remote_answer (reply, id);

-- Who listens. pid: its session's at the server; it listens as long as that is there. 0: it has none of its
-- own, and says now and then that it is alive.
CREATE UNLOGGED TABLE @remote_listener (
    id text COLLATE "C" PRIMARY KEY, node text NOT NULL, pid int NOT NULL, seen float8 NOT NULL
);
