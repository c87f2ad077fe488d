-- From version 5 of the store's tables to version 6: the history of attempts.
-- Keys: none. Arguments: none. Returns nothing.
--
-- A row is one attempt, or the attempts of an exchange packed into one (engines/attempts.py). Attempts are numbered
-- without gaps, and a row's id is the number of its last one: so what is over the bound is a range of ids.
-- at: when it was stored. key: the checksum of a single attempt's task id. Packed ones are found by their marks,
-- which stand apart: to look through those of a million attempts takes milliseconds.

CREATE TABLE attempt (id INTEGER PRIMARY KEY, at REAL NOT NULL, count INTEGER NOT NULL, key INTEGER, body BLOB NOT NULL);
CREATE INDEX attempt_key ON attempt (key) WHERE key IS NOT NULL;
CREATE TABLE attempt_marks (id INTEGER PRIMARY KEY, marks BLOB NOT NULL);
