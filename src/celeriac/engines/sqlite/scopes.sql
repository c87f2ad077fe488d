-- From version 4 of the store's tables to version 5: each scope has a schedule and a leader of its own. What there was
-- belongs to the scope "".
-- Keys: none. Arguments: none. Returns nothing.

ALTER TABLE schedule RENAME TO schedule_4;
CREATE TABLE schedule (
    scope TEXT PRIMARY KEY, version INTEGER NOT NULL DEFAULT 0, forgotten INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO schedule SELECT '', version, forgotten FROM schedule_4;
DROP TABLE schedule_4;

ALTER TABLE entry RENAME TO entry_4;
DROP INDEX entry_version;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, definition BLOB NOT NULL, source TEXT NOT NULL,
    enabled INTEGER NOT NULL, version INTEGER NOT NULL, since REAL NOT NULL, UNIQUE (scope, name)
);
INSERT INTO entry SELECT id, '', name, definition, source, enabled, version, since FROM entry_4;
DROP TABLE entry_4;
CREATE INDEX entry_version ON entry (scope, version);

ALTER TABLE removed RENAME TO removed_4;
DROP INDEX removed_version;
CREATE TABLE removed (scope TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (scope, name))
    WITHOUT ROWID;
INSERT INTO removed SELECT '', name, version FROM removed_4;
DROP TABLE removed_4;
CREATE INDEX removed_version ON removed (scope, version);

ALTER TABLE term RENAME TO term_4;
CREATE TABLE term (
    scope TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, expires REAL NOT NULL, ttl REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO term SELECT '', holder, token, expires, ttl FROM term_4;
DROP TABLE term_4;
