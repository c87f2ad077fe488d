-- From version 1 of the store's tables to version 2: groups, chords, unique keys, concurrency limits,
-- checkpoints. Keys: none. Arguments: none. Returns nothing.
--
-- Where a message's row has admitted, it is a sum: 1, it has its rate limit's token; 2, it has a seat.

-- bucket names a rate limit, or, with room = 1, a row of room; turn says who comes first there. Workers of
-- version 1 may be running still: what they do not know has a default.
CREATE TABLE parked_2 (
    bucket TEXT NOT NULL, queue TEXT NOT NULL, seq INTEGER NOT NULL,
    id INTEGER NOT NULL, rank INTEGER NOT NULL, since REAL NOT NULL, task_id TEXT NOT NULL,
    room INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0, admitted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, room, bucket, turn, seq)
) WITHOUT ROWID;
INSERT INTO parked_2 (bucket, queue, seq, id, rank, since, task_id)
SELECT bucket, queue, seq, id, rank, since, task_id FROM parked;
DROP TABLE parked;
ALTER TABLE parked_2 RENAME TO parked;
CREATE INDEX parked_bucket ON parked (room, bucket);
CREATE INDEX parked_task ON parked (task_id);

-- A concurrency limit: a room with so many seats, some taken by leased messages, and messages parked for one.
CREATE TABLE room (
    name TEXT PRIMARY KEY, size INTEGER NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0, waiting INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX room_open ON room (name) WHERE waiting > 0 AND taken < size;
CREATE TABLE seat (message INTEGER, room TEXT, PRIMARY KEY (message, room)) WITHOUT ROWID;

-- The counts are kept here, so that no way in which a message moves can forget them.
CREATE TRIGGER seat_taken AFTER INSERT ON seat
BEGIN UPDATE room SET taken = taken + 1 WHERE name = NEW.room; END;
CREATE TRIGGER seat_left AFTER DELETE ON seat
BEGIN UPDATE room SET taken = taken - 1 WHERE name = OLD.room; END;
CREATE TRIGGER room_entered AFTER INSERT ON parked WHEN NEW.room
BEGIN UPDATE room SET waiting = waiting + 1 WHERE name = NEW.bucket; END;
CREATE TRIGGER room_left AFTER DELETE ON parked WHEN OLD.room
BEGIN UPDATE room SET waiting = waiting - 1 WHERE name = OLD.bucket; END;

-- Unique keys. until: a value of Hold. due: of the delayed message with until = 'delayed'; the key is free
-- when that row of delayed has gone, which costs promoting nothing.
CREATE TABLE held (
    key TEXT PRIMARY KEY, task_id TEXT NOT NULL, until TEXT NOT NULL, expires REAL NOT NULL,
    message INTEGER NOT NULL, due REAL
);
CREATE INDEX held_message ON held (message);

CREATE TABLE checkpoint (task_id TEXT PRIMARY KEY, payload BLOB NOT NULL, expires REAL NOT NULL);

CREATE TABLE task_group (name TEXT PRIMARY KEY, payload BLOB NOT NULL, expires REAL);

-- missing: the header's size less the parts recorded; it means something once opened. state: 0 counting,
-- 1 owed, 2 done. Ids come from state.serial: what is left of a chord never becomes part of another. The body
-- stands apart: each part rewrites the chord's row.
CREATE TABLE chord (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, state INTEGER NOT NULL DEFAULT 0,
    opened INTEGER NOT NULL DEFAULT 0, missing INTEGER NOT NULL DEFAULT 0, expires REAL,
    owed REAL, taken REAL, taken_by TEXT
);
CREATE INDEX chord_owed ON chord (owed) WHERE state = 1;
CREATE TABLE chord_body (chord INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE part (
    id INTEGER PRIMARY KEY, chord INTEGER NOT NULL, task_id TEXT NOT NULL,
    place INTEGER, payload BLOB NOT NULL
);
CREATE UNIQUE INDEX part_task ON part (chord, task_id);
