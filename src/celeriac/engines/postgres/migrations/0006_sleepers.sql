-- Version 6: the functions around the list of sleepers in PL/pgSQL, which keeps their plans. One in SQL that changes rows, or
-- that calls a volatile function and says it is stable, is parsed and planned anew by each statement that calls it: together
-- that took a fifth of an exchange. Keys, arguments, returns: as in version 5.

-- A sleeper's number, p_age seconds ago; sleepers of the same microsecond differ in the last 10 bits.
CREATE OR REPLACE FUNCTION @sleeper(p_age float8) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ((extract(epoch FROM clock_timestamp()) - p_age) * 1000000)::bigint - 1704067200000000 << 10;
END $$;

-- Put a consumer on the list of sleepers. Returns its entry.
CREATE OR REPLACE FUNCTION @lie_down(p_owner int, p_channel text, p_queues text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    entry bigint := @sleeper(0) + (nextval('@claims') & 1023);
BEGIN
    INSERT INTO @waiter (id, owner, channel, queues) VALUES (entry, p_owner, p_channel, p_queues);
    RETURN entry;
END $$;

-- Take a sleeper off the list, unless somebody is doing it. Returns nothing.
CREATE OR REPLACE FUNCTION @get_up(p_entry bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM @waiter WHERE id = ANY (ARRAY(SELECT id FROM @waiter WHERE id = p_entry FOR UPDATE SKIP LOCKED));
END $$;
