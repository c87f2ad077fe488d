-- The history of attempts. Keys: none. Arguments: none. Returns nothing. "@" stands for the schema.
--
-- A row is one attempt, or the attempts of an exchange packed into one (engines/attempts.py). Attempts are numbered by a
-- sequence, and a row's id is the number of its last one: so what is over the bound is a range of ids.
-- at: when it was stored. key: the checksum of a single attempt's task id. Packed ones are found by their marks; their
-- bodies stand outside the row, so that looking through the marks of a million attempts takes milliseconds.

CREATE SEQUENCE @attempts;
CREATE TABLE @attempt (
    id bigint PRIMARY KEY, at float8 NOT NULL, count int NOT NULL, key int, marks bytea, body bytea NOT NULL
) WITH (toast_tuple_target = 512, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.5);
ALTER TABLE @attempt ALTER marks SET STORAGE MAIN, ALTER body SET STORAGE EXTERNAL;
CREATE INDEX attempt_key ON @attempt (key) WHERE key IS NOT NULL;
CREATE INDEX attempt_packed ON @attempt (id) WHERE key IS NULL;

-- Store attempts, oldest first, but those of p_refused. p_tokens: the leases they ended; empty if there were none.
-- p_keys: of their task ids. p_marks: NULL gives each a row of its own. Returns how many p_bodies are.
CREATE FUNCTION @note(p_refused bigint[], p_tokens bigint[], p_keys int[], p_marks bytea, p_bodies bytea[])
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    many int := array_length(p_bodies, 1);
    last bigint;
BEGIN
    IF p_marks IS NULL OR p_refused && p_tokens THEN
        INSERT INTO @attempt (id, at, count, key, body)
        SELECT nextval('@attempts'), @now(), 1, u.key, u.body
        FROM unnest(p_keys, p_bodies) WITH ORDINALITY u (key, body, place)
        WHERE p_refused = '{}' OR p_tokens = '{}' OR p_tokens[u.place] <> ALL (p_refused) ORDER BY u.place;
    ELSE
        SELECT max(nextval('@attempts')) INTO last FROM generate_series(1, many);
        INSERT INTO @attempt (id, at, count, marks, body)
        SELECT last, @now(), many, p_marks, '\xdd'::bytea || int4send(many) || string_agg(b, '') FROM unnest(p_bodies) b;
    END IF;
    RETURN many;
END $$;
