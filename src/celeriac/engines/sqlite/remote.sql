-- Remote control: orders to workers and their answers, each for a moment. Keys: none. Arguments: none. Returns
-- nothing.
--
-- Numbers are never used twice: a worker reads what is above the last one it has seen. expires: epoch second.
CREATE TABLE remote_order (
    id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, reply TEXT NOT NULL, expires REAL NOT NULL
);
CREATE TABLE remote_answer (
    id INTEGER PRIMARY KEY AUTOINCREMENT, reply TEXT NOT NULL, body BLOB NOT NULL, expires REAL NOT NULL
);
CREATE INDEX remote_answer_reply ON remote_answer (reply);

-- Who listens. pipe: the name of its pipe beside the file; it listens as long as somebody has that open.
CREATE TABLE remote_listener (pipe TEXT PRIMARY KEY, node TEXT NOT NULL) WITHOUT ROWID;
