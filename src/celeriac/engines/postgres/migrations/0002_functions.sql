-- The store's functions, version 2: what must be one round trip. "@" stands for the schema. What a function takes
-- and returns stands above it. They never name a session's state, so that they work behind a connection pool;
-- their plans are kept by the server, however the call comes.

-- The store's clock, epoch seconds.
CREATE FUNCTION @now() RETURNS float8 LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::float8 $$;

-- Wake those who sleep for messages of these queues: p_counts of each.
CREATE FUNCTION @call(p_queues text[], p_counts int[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    sleeper record;
BEGIN
    FOR i IN 1 .. coalesce(array_length(p_queues, 1), 0) LOOP
        FOR sleeper IN
            DELETE FROM @waiter WHERE id = ANY (ARRAY(
                SELECT w.id FROM @waiter w WHERE p_queues[i] = ANY (w.queues)
                ORDER BY w.id DESC LIMIT p_counts[i] FOR UPDATE SKIP LOCKED))
            RETURNING channel, id
        LOOP
            PERFORM pg_notify(sleeper.channel, 'w' || sleeper.id);
        END LOOP;
    END LOOP;
END $$;

-- Tell the listeners of stored results: all of them while they are few, else those whom p_replies names.
CREATE FUNCTION @tell(p_ids text[], p_replies text[]) RETURNS void LANGUAGE plpgsql AS $$
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
    PERFORM pg_notify(t.channel, CASE WHEN octet_length(t.ids) < 7900 THEN t.ids ELSE 'r' END)
    FROM (SELECT e.channel, 'r' || string_agg(u.id, E'\n') AS ids
          FROM unnest(ears) e (channel), unnest(p_ids, p_replies) WITH ORDINALITY u (id, reply, place)
          WHERE few OR u.reply = e.channel
          GROUP BY e.channel, u.place / 100) t;
END $$;

-- Store new messages, in order. p_ranks: smallest first. p_delays, p_dues: at most one of them, else ready now.
-- p_tracks: seconds for which to remember that the task is queued. p_unknown: queues to be remembered.
-- Returns the last one's id.
CREATE FUNCTION @add(
    p_queues text[], p_ranks smallint[], p_delays float8[], p_dues float8[], p_bodies bytea[], p_task_ids text[],
    p_tracks float8[], p_unknown text[], p_broadcast boolean
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    moment float8 := @now();
    last bigint;
    names text[];
    counts int[];
BEGIN
    IF p_unknown <> '{}' THEN
        INSERT INTO @queue (name) SELECT DISTINCT u FROM unnest(p_unknown) u ORDER BY 1 ON CONFLICT DO NOTHING;
    END IF;
    WITH new AS MATERIALIZED (
        SELECT nextval('@serial') AS id, u.queue, u.rank, coalesce(moment + u.delay, u.due) AS due, u.body, u.task_id
        FROM unnest(p_queues, p_ranks, p_delays, p_dues, p_bodies, p_task_ids)
            u (queue, rank, delay, due, body, task_id)),
    bodies AS (INSERT INTO @payload (id, body) SELECT id, body FROM new),
    heads AS (
        INSERT INTO @message (id, seq, since, due, rank, state, queue, task_id)
        SELECT id, id, moment, due, rank, CASE WHEN due IS NULL THEN 0 ELSE 2 END, queue,
            CASE WHEN due IS NOT NULL THEN task_id END
        FROM new),
    -- Who sleeps must learn of a due time, too; within the poll interval the poll would be too late.
    calls AS (SELECT queue, count(*)::int AS times FROM new WHERE due IS NULL OR due < moment + 1 GROUP BY queue)
    SELECT (SELECT max(id) FROM new), array_agg(queue), array_agg(times) INTO last, names, counts FROM calls;
    IF p_tracks <> '{}' THEN
        INSERT INTO @result AS r (id, expires)
        SELECT DISTINCT ON (u.id) u.id, moment + u.track FROM unnest(p_task_ids, p_tracks) u (id, track)
        WHERE u.track IS NOT NULL ORDER BY u.id
        ON CONFLICT (id) DO UPDATE SET state = NULL, payload = NULL, expires = excluded.expires
        WHERE r.payload IS NULL OR r.expires <= moment;
    END IF;
    IF p_broadcast THEN
        -- Within a transaction of the application's, which may last: nobody is taken off the list of sleepers.
        PERFORM pg_notify(w.channel, 'b' || w.id) FROM @waiter w WHERE w.queues && names;
    ELSIF names IS NOT NULL THEN
        PERFORM @call(names, counts);
    END IF;
    RETURN last;
END $$;

-- Store tasks' states and announce them; no id twice. Returns the ids stored, for nothing replaces SUCCESS.
CREATE FUNCTION @keep(p_ids text[], p_states text[], p_payloads bytea[], p_ttls float8[], p_replies text[])
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
        PERFORM @tell(p_ids, p_replies);
    END IF;
    RETURN kept;
END $$;

-- Free the seats of these messages, and wake those who sleep while others wait for one.
CREATE FUNCTION @leave(p_messages bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rooms text[];
BEGIN
    SELECT array_agg(room) INTO rooms FROM
        (SELECT DISTINCT room FROM @seat WHERE message = ANY (p_messages) ORDER BY room) s;
    IF rooms IS NULL THEN
        RETURN;
    END IF;
    PERFORM 1 FROM @room WHERE name = ANY (rooms) ORDER BY name FOR UPDATE;
    DELETE FROM @seat WHERE message = ANY (p_messages);
    PERFORM @call_waiting(rooms);
END $$;

-- Wake one who sleeps for each queue with messages that wait for a place in one of these rooms.
CREATE FUNCTION @call_waiting(p_rooms text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @call(array_agg(w.queue), array_agg(1)) FROM
        (SELECT DISTINCT m.queue FROM @message m WHERE m.state = 5 AND m.bucket = ANY (p_rooms)) w
    HAVING count(*) > 0;
END $$;

-- When the next delayed or parked message of these queues falls due; NULL if none waits.
CREATE FUNCTION @next_due(p_queues text[], p_now float8) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    soonest float8;
    parked boolean;
    waiting boolean;
BEGIN
    SELECT min((SELECT m.due FROM @message m WHERE m.state = 2 AND m.queue = q ORDER BY m.queue, m.due LIMIT 1)),
        bool_or(EXISTS (SELECT 1 FROM @message m WHERE m.state = 3 AND m.queue = q)),
        bool_or(EXISTS (SELECT 1 FROM @message m WHERE m.state = 5 AND m.queue = q))
    INTO soonest, parked, waiting FROM unnest(p_queues) q;
    IF parked THEN
        -- A token that is free later than an interval from now is one of a clock that was set back: free now.
        SELECT least(soonest, min(CASE WHEN b.free > p_now + b.span THEN 0 ELSE b.free END)) INTO soonest
        FROM @bucket b WHERE EXISTS (
            SELECT 1 FROM @message m WHERE m.state = 3 AND m.queue = ANY (p_queues) AND m.bucket = b.name);
    END IF;
    IF waiting AND EXISTS (
        SELECT 1 FROM @room r WHERE r.size > (SELECT count(*) FROM @seat s WHERE s.room = r.name)
        AND EXISTS (SELECT 1 FROM @message m WHERE m.state = 5 AND m.queue = ANY (p_queues) AND m.bucket = r.name))
    THEN
        soonest := least(soonest, p_now);
    END IF;
    RETURN soonest;
END $$;

-- Move due messages into line: delayed ones to the back, 100 a queue, one parked one a token to its old place.
CREATE FUNCTION @promote(p_queues text[], p_now float8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    line text;
    limits record;
BEGIN
    FOREACH line IN ARRAY p_queues LOOP
        WITH due AS MATERIALIZED (
            SELECT s.place, nextval('@serial') AS seq FROM (
                SELECT m.ctid AS place FROM @message m WHERE m.state = 2 AND m.queue = line AND m.due <= p_now
                ORDER BY m.queue, m.due, m.id LIMIT 100 FOR UPDATE SKIP LOCKED) s)
        UPDATE @message m SET state = 0, seq = due.seq, since = m.due, due = NULL, noted = 0, task_id = NULL
        FROM due WHERE m.ctid = due.place;
        FOR limits IN
            SELECT b.name, b.span FROM @bucket b
            WHERE (b.free <= p_now OR b.free > p_now + b.span) AND EXISTS (
                SELECT 1 FROM @message m WHERE m.state = 3 AND m.queue = line AND m.bucket = b.name)
            ORDER BY b.name FOR UPDATE SKIP LOCKED
        LOOP
            UPDATE @message m SET state = 0, noted = m.noted | 1, bucket = NULL, task_id = NULL WHERE m.ctid = ANY (ARRAY(
                SELECT f.ctid FROM @message f WHERE f.state = 3 AND f.queue = line AND f.bucket = limits.name
                ORDER BY f.queue, f.bucket, f.seq LIMIT 1 FOR UPDATE));
            IF FOUND THEN
                UPDATE @bucket SET free = p_now + limits.span WHERE name = limits.name;
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- Give free seats to up to p_limit messages of these queues that have waited longest, and lease them.
-- Tokens go on from p_base + p_count. Returns the new count.
CREATE FUNCTION @seat_waiting(p_owner int, p_queues text[], p_limit int, p_base bigint, p_count int)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    place text;
    free int;
    message record;
BEGIN
    FOR place IN
        SELECT DISTINCT m.bucket FROM @message m WHERE m.state = 5 AND m.queue = ANY (p_queues) ORDER BY 1
    LOOP
        EXIT WHEN p_count >= p_limit;
        PERFORM 1 FROM @room WHERE name = place FOR UPDATE;
        SELECT r.size - (SELECT count(*) FROM @seat s WHERE s.room = place) INTO free FROM @room r WHERE r.name = place;
        FOR message IN
            SELECT m.ctid, m.id, m.token FROM @message m
            WHERE m.state = 5 AND m.queue = ANY (p_queues) AND m.bucket = place
            ORDER BY m.turn LIMIT greatest(0, least(free, p_limit - p_count)) FOR UPDATE
        LOOP
            p_count := p_count + 1;
            INSERT INTO @seat (message, room) VALUES (message.id, place) ON CONFLICT DO NOTHING;
            UPDATE @message m SET state = 1, owner = p_owner, token = greatest(p_base, m.token + 1024) + p_count,
                noted = m.noted | 2, bucket = NULL, turn = NULL, task_id = NULL
            WHERE m.ctid = message.ctid;
        END LOOP;
    END LOOP;
    RETURN p_count;
END $$;

-- Lease up to p_limit messages: those for which a place is free, then the lines of these queues, all lanes of
-- higher urgency first. p_above: the greatest token this owner has got. Returns the tokens' lower bound: all that was
-- leased has a greater one, and nothing that the owner held before.
CREATE FUNCTION @claim(p_owner int, p_queues text[], p_limit int, p_above bigint, p_due boolean)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    -- Microseconds since 2024, and 13 bits that tell claims of one microsecond, and their messages, apart: a number
    -- that never goes back, also when a crash takes the last commits and the sequence's values with them.
    base bigint := (((extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 1704067200000000) << 13)
        + ((nextval('@claims') & 7) << 10);
    count int := 0;
    lane smallint;
    line text;
BEGIN
    p_limit := least(p_limit, 8000);
    base := greatest(base, p_above + 1024);  -- the clock may have been set back
    IF p_due THEN
        count := @seat_waiting(p_owner, p_queues, p_limit, base, 0);
    END IF;
    lane := -32768;
    LOOP
        EXIT WHEN count >= p_limit;
        IF array_length(p_queues, 1) > 1 THEN
            SELECT min((SELECT m.rank FROM @message m WHERE m.state = 0 AND m.queue = q AND m.rank > lane
                ORDER BY m.queue, m.rank LIMIT 1)) INTO lane FROM unnest(p_queues) q;
            EXIT WHEN lane IS NULL;
        END IF;
        FOREACH line IN ARRAY p_queues LOOP
            EXIT WHEN count >= p_limit;
            IF array_length(p_queues, 1) > 1 THEN
                count := count + @lease(p_owner, line, lane, lane, p_limit - count, base, count);
            ELSE
                count := count + @lease(p_owner, line, (-32768)::smallint, 32767::smallint, p_limit - count, base, count);
            END IF;
        END LOOP;
        EXIT WHEN array_length(p_queues, 1) = 1;
    END LOOP;
    IF count = 0 THEN
        RETURN NULL;
    END IF;
    IF count >= p_limit AND EXISTS (SELECT 1 FROM @waiter) THEN
        -- There may be more: whoever else is idle should look. Costs little while all are busy.
        PERFORM @call(p_queues, array_fill(1, ARRAY[array_length(p_queues, 1)]));
    END IF;
    RETURN base;
END $$;

-- Lease the first messages of a queue's lanes. Returns how many.
CREATE FUNCTION @lease(
    p_owner int, p_queue text, p_from smallint, p_to smallint, p_limit int, p_base bigint, p_count int
) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    leased int;
BEGIN
    WITH first AS MATERIALIZED (
        SELECT m.ctid AS place, m.rank, m.seq, m.token FROM @message m
        WHERE m.state = 0 AND m.queue = p_queue AND m.rank BETWEEN p_from AND p_to
        ORDER BY m.queue, m.rank, m.seq LIMIT p_limit FOR UPDATE SKIP LOCKED),
    numbered AS MATERIALIZED (
        SELECT place, row_number() OVER (ORDER BY rank, seq) AS number, max(token) OVER () + 1024 AS above FROM first)
    UPDATE @message m SET state = 1, owner = p_owner, token = greatest(p_base, n.above) + p_count + n.number
    FROM numbered n WHERE m.ctid = n.place;
    GET DIAGNOSTICS leased = ROW_COUNT;
    RETURN leased;
END $$;

-- Lock a lease owner against everybody else who would touch its leases. Raises CLF01 if it is not known.
CREATE FUNCTION @hold(p_owner int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM @owner WHERE id = p_owner FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such lease owner' USING ERRCODE = 'CLF01';
    END IF;
END $$;

-- End leases whose messages are done. Returns the tokens that were held.
CREATE FUNCTION @settle(p_owner int, p_tokens bigint[], p_queues text[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ended bigint[];
    seated bigint[];
BEGIN
    WITH done AS (
        DELETE FROM @message m USING unnest(p_tokens, p_queues) o (token, queue)
        WHERE m.state = 1 AND m.owner = p_owner AND m.token = o.token AND m.queue = o.queue
        RETURNING m.token, m.id, m.noted),
    gone AS (DELETE FROM @payload p USING done WHERE p.id = done.id)
    SELECT array_agg(token), array_agg(id) FILTER (WHERE noted & 2 <> 0) INTO ended, seated FROM done;
    IF seated IS NOT NULL THEN
        PERFORM @leave(seated);
    END IF;
    RETURN coalesce(ended, '{}');
END $$;

-- What follows settling in an exchange: promote, claim, note the answer in place of that of p_forget. Returns the claimed messages and last a row
-- of its own: clock, next due time, version of the orders.
CREATE FUNCTION @take(
    p_owner int, p_request bigint, p_forget bigint, p_above bigint, p_refused bigint[], p_owed text[], p_note boolean,
    p_queues text[], p_limit int)
RETURNS TABLE (o_token bigint, o_queue text, o_rank smallint, o_noted smallint, o_payload bytea,
    o_refused bigint[], o_owed text[], o_now float8, o_due float8, o_version bigint) LANGUAGE plpgsql AS $$
DECLARE
    stopped text[];
    base bigint;
BEGIN
    o_now := @now();
    SELECT s.version, ARRAY(SELECT queue FROM @paused) INTO o_version, stopped FROM @state s;
    IF stopped <> '{}' THEN
        p_queues := ARRAY(SELECT q FROM unnest(p_queues) WITH ORDINALITY u (q, place)
            WHERE q <> ALL (stopped) ORDER BY place);
    END IF;
    IF p_queues <> '{}' THEN
        o_due := @next_due(p_queues, o_now);
        IF p_limit > 0 THEN
            IF o_due <= o_now THEN
                PERFORM @promote(p_queues, o_now);
                base := @claim(p_owner, p_queues, p_limit, p_above, true);
                o_due := @next_due(p_queues, o_now);
            ELSE
                base := @claim(p_owner, p_queues, p_limit, p_above, false);
            END IF;
        END IF;
    END IF;
    IF p_note OR base IS NOT NULL THEN
        DELETE FROM @answer WHERE owner = p_owner AND request = p_forget;
        INSERT INTO @answer (owner, request, first, refused, owed)
        VALUES (p_owner, p_request, coalesce(base, 9223372036854775807), p_refused, p_owed);
    END IF;
    IF base IS NOT NULL THEN
        RETURN QUERY SELECT m.token, m.queue::text, m.rank, m.noted, p.body, NULL::bigint[], NULL::text[],
            NULL::float8, NULL::float8, NULL::bigint
        FROM @message m JOIN @payload p ON p.id = m.id
        WHERE m.state = 1 AND m.owner = p_owner AND m.token > base ORDER BY m.owner, m.token;
    END IF;
    o_token := NULL;
    o_refused := p_refused;
    o_owed := p_owed;
    RETURN NEXT;
END $$;

-- An exchange of plain outcomes: acknowledge, store results and follow-ups, claim, in one step. p_commit: the level
-- of synchronous_commit, or NULL. r_tokens, f_tokens: whose results and follow-ups they are. Returns as take.
CREATE FUNCTION @exchange(
    p_owner int, p_request bigint, p_forget bigint, p_above bigint, p_commit text, p_tokens bigint[], p_token_queues text[],
    r_tokens bigint[], r_ids text[], r_states text[], r_payloads bytea[], r_ttls float8[], r_replies text[],
    f_tokens bigint[], f_queues text[], f_ranks smallint[], f_delays float8[], f_dues float8[], f_bodies bytea[],
    f_task_ids text[], f_tracks float8[], f_unknown text[],
    p_queues text[], p_limit int)
RETURNS TABLE (o_token bigint, o_queue text, o_rank smallint, o_noted smallint, o_payload bytea,
    o_refused bigint[], o_owed text[], o_now float8, o_due float8, o_version bigint) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    ended bigint[];
    refused bigint[] := '{}';
BEGIN
    IF p_commit IS NOT NULL THEN
        PERFORM set_config('synchronous_commit', p_commit, true);
    END IF;
    PERFORM @hold(p_owner);
    IF p_tokens <> '{}' THEN
        ended := @settle(p_owner, p_tokens, p_token_queues);
        IF array_length(ended, 1) IS DISTINCT FROM array_length(p_tokens, 1) THEN
            refused := ARRAY(SELECT t FROM unnest(p_tokens) WITH ORDINALITY u (t, place) WHERE t <> ALL (ended) ORDER BY place);
            SELECT array_agg(id), array_agg(state), array_agg(payload), array_agg(ttl), array_agg(reply)
            INTO r_ids, r_states, r_payloads, r_ttls, r_replies
            FROM unnest(r_tokens, r_ids, r_states, r_payloads, r_ttls, r_replies) u (token, id, state, payload, ttl, reply)
            WHERE token = ANY (ended);
            SELECT array_agg(queue), array_agg(rank), array_agg(delay), array_agg(due), array_agg(body), array_agg(task_id),
                array_agg(track)
            INTO f_queues, f_ranks, f_delays, f_dues, f_bodies, f_task_ids, f_tracks
            FROM unnest(f_tokens, f_queues, f_ranks, f_delays, f_dues, f_bodies, f_task_ids, f_tracks)
                u (token, queue, rank, delay, due, body, task_id, track)
            WHERE token = ANY (ended);
        END IF;
        IF r_ids <> '{}' THEN
            PERFORM @keep(r_ids, r_states, r_payloads, r_ttls, r_replies);
        END IF;
        IF f_queues <> '{}' THEN
            PERFORM @add(f_queues, f_ranks, f_delays, f_dues, f_bodies, f_task_ids, f_tracks, f_unknown, false);
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM @take(p_owner, p_request, p_forget, p_above, refused, '{}'::text[],
        p_tokens <> '{}', p_queues, p_limit);
END $$;

-- The recorded answer of an exchange that may have been carried out. Returns as take; nothing if it was not.
CREATE FUNCTION @recorded(p_owner int, p_request bigint, p_queues text[])
RETURNS TABLE (o_token bigint, o_queue text, o_rank smallint, o_noted smallint, o_payload bytea,
    o_refused bigint[], o_owed text[], o_now float8, o_due float8, o_version bigint) LANGUAGE plpgsql AS $$
DECLARE
    known record;
BEGIN
    PERFORM @hold(p_owner);
    SELECT * INTO known FROM @answer a WHERE a.owner = p_owner AND a.request = p_request;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT m.token, m.queue::text, m.rank, m.noted, p.body, NULL::bigint[], NULL::text[],
        NULL::float8, NULL::float8, NULL::bigint
    FROM @message m JOIN @payload p ON p.id = m.id
    WHERE m.state = 1 AND m.owner = p_owner AND m.token > known.first ORDER BY m.owner, m.token;
    o_refused := known.refused;
    o_owed := known.owed;
    o_now := @now();
    o_due := @next_due(p_queues, o_now);
    SELECT s.version INTO o_version FROM @state s;
    RETURN NEXT;
END $$;
