-- From version 2 of the store's tables to version 3: periodic tasks, and who leads those who watch them.
-- Keys: none. Arguments: none. Returns nothing.

-- version grows with every change of an entry. forgotten: removals at this version and before may be forgotten.
CREATE TABLE schedule (
    id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, forgotten INTEGER NOT NULL
);
INSERT INTO schedule (id, version, forgotten) VALUES (1, 0, 0);

-- What an entry is. since: when it was first stored, or enabled again.
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, definition BLOB NOT NULL, source TEXT NOT NULL,
    enabled INTEGER NOT NULL, version INTEGER NOT NULL, since REAL NOT NULL
);
CREATE INDEX entry_version ON entry (version);

-- How far it has come. It stands apart: a tick rewrites a narrow row, many to a page.
CREATE TABLE progress (
    entry INTEGER PRIMARY KEY, last_due REAL, last_run REAL, last_id TEXT NOT NULL DEFAULT '',
    runs INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0
);

-- Entries that are no more, with the version at which they were removed.
CREATE TABLE removed (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX removed_version ON removed (version);

-- Who leads. expires: epoch second.
CREATE TABLE term (
    id INTEGER PRIMARY KEY CHECK (id = 1), holder TEXT NOT NULL, token INTEGER NOT NULL,
    expires REAL NOT NULL, ttl REAL NOT NULL
);
INSERT INTO term (id, holder, token, expires, ttl) VALUES (1, '', 0, 0, 0);
