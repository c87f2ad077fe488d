-- Version 6: two things that make a task's start and the way of its result shorter.
--
-- First the functions around the list of sleepers in PL/pgSQL, which keeps their plans. One in SQL that changes rows, or
-- that calls a volatile function and says it is stable, is parsed and planned anew by each statement that calls it: together
-- that took a fifth of an exchange. Then a notification that brings the result along. Keys, arguments, returns: as before.

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

-- Tell the listeners of stored results: all of them while they are few, else those whom p_replies names. p_payload: of the
-- only one, if it may be passed on instead of being read: 'p', the payload in base64, a newline and the id; else NULL.
DROP FUNCTION @tell(text[], text[]);
CREATE FUNCTION @tell(p_ids text[], p_replies text[], p_payload bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    few boolean;
    ears text[];
BEGIN
    SELECT array_agg(l.channel) INTO ears FROM @listener l WHERE l.seen > @now() - 60;
    IF ears IS NULL THEN
        RETURN;
    END IF;
    few := array_length(ears, 1) <= 8;
    -- A notification's text is less than 8000 bytes; 'r' alone asks to look at all.
    PERFORM pg_notify(t.channel, CASE WHEN octet_length(t.ids) >= 7900 THEN 'r'
        WHEN p_payload IS NULL OR octet_length(t.ids) > 1000 THEN t.ids
        ELSE 'p' || translate(encode(p_payload, 'base64'), E'\n', '') || E'\n' || p_ids[1] END)
    FROM (SELECT e.channel, 'r' || string_agg(u.id, E'\n') AS ids
          FROM unnest(ears) e (channel), unnest(p_ids, p_replies) WITH ORDINALITY u (id, reply, place)
          WHERE few OR u.reply = e.channel
          GROUP BY e.channel, u.place / 100) t;
END $$;

-- Store tasks' states and announce them; no id twice. Returns the ids stored, for nothing replaces SUCCESS: so one that was
-- stored, and is short, can be passed on with its announcement.
CREATE OR REPLACE FUNCTION @keep(p_ids text[], p_states text[], p_payloads bytea[], p_ttls float8[], p_replies text[])
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    moment float8 := @now();
    kept text[];
BEGIN
    WITH stored AS (
        INSERT INTO @result AS r (id, state, payload, expires)
        SELECT u.id, u.state, u.payload, moment + u.ttl
        FROM unnest(p_ids, p_states, p_payloads, p_ttls) u (id, state, payload, ttl)
        ORDER BY u.id   -- two who store the same ids do not lock one another out
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, payload = excluded.payload, expires = excluded.expires
        WHERE r.state IS DISTINCT FROM 'SUCCESS' OR r.expires <= moment
        RETURNING r.id)
    SELECT coalesce(array_agg(id), '{}') INTO kept FROM stored;
    IF EXISTS (SELECT 1 FROM @listener) THEN
        PERFORM @tell(p_ids, p_replies, CASE WHEN array_length(p_ids, 1) = 1 AND p_states[1] = 'SUCCESS' AND kept <> '{}'
            AND octet_length(p_payloads[1]) <= 5000 THEN p_payloads[1] END);
    END IF;
    RETURN kept;
END $$;
