-- Version 5: claims that stay as quick as they are, whatever an old transaction keeps from being vacuumed; an exchange
-- that brings nothing puts its consumer on the list of sleepers. The functions of version 2 that have another
-- signature here stay for workers that run while the tables are brought up to date.
--
-- A mark says of a lane (queue and rank): no ready message has a place (seq) below it, nor will have. So a claim does not
-- look at the entries of messages that are gone, which the index keeps as long as any old transaction could see them.
-- That holds because of two rules:
-- * What goes back to its place in line gets a negative place (@back), smaller than any new one: marks do not concern
--   those. So it comes first in its lane, in the order it had.
-- * A new place is taken from @serial within a statement that has locked @message before. Who raises a mark (@raise)
--   first notes the last place given out and all who hold that lock, and raises it no further than that,
--   when all of them have ended, to the first message that is ready.
-- Likewise nothing that is put off falls due more than SLACK = 60 seconds before it is stored (@not_before).

-- A place before the line, for one that goes back there.
CREATE FUNCTION @back(p_seq bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN p_seq < 0 THEN p_seq ELSE p_seq - 9223372036854775807 END $$;

-- A due time, not too long ago.
CREATE FUNCTION @not_before(p_due float8, p_now float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS
$$ SELECT greatest(p_due, p_now - 60) $$;

-- Sleepers are numbered by the clock, microseconds since 2024 and 10 bits that tell those of one microsecond apart, and
-- lie down anew every RENEWED = 2 seconds: so who looks for one looks at those of the last 4 seconds only.
CREATE FUNCTION @sleeper(p_age float8) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT ((extract(epoch FROM clock_timestamp()) - p_age) * 1000000)::bigint - 1704067200000000 << 10 $$;

-- Put a consumer on the list of sleepers. Returns its entry.
CREATE FUNCTION @lie_down(p_owner int, p_channel text, p_queues text[]) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    INSERT INTO @waiter (id, owner, channel, queues)
    VALUES (@sleeper(0) + (nextval('@claims') & 1023), p_owner, p_channel, p_queues) RETURNING id
$$;

-- Take a sleeper off the list, unless somebody is doing it. Returns nothing.
CREATE FUNCTION @get_up(p_entry bigint) RETURNS void LANGUAGE sql VOLATILE AS $$
    DELETE FROM @waiter WHERE id = ANY (ARRAY(SELECT id FROM @waiter WHERE id = p_entry FOR UPDATE SKIP LOCKED))
$$;

-- Wake those who sleep for messages of these queues: p_counts of each.
CREATE OR REPLACE FUNCTION @call(p_queues text[], p_counts int[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    sleeper record;
    since bigint := @sleeper(4);
BEGIN
    FOR i IN 1 .. coalesce(array_length(p_queues, 1), 0) LOOP
        FOR sleeper IN
            DELETE FROM @waiter WHERE id = ANY (ARRAY(
                SELECT w.id FROM @waiter w WHERE w.id > since AND p_queues[i] = ANY (w.queues)
                ORDER BY w.id DESC LIMIT p_counts[i] FOR UPDATE SKIP LOCKED))
            RETURNING channel, id
        LOOP
            PERFORM pg_notify(sleeper.channel, 'w' || sleeper.id);
        END LOOP;
    END LOOP;
END $$;

-- Store new messages, in order. p_ranks: smallest first. p_delays, p_dues: at most one of them, else ready now.
-- p_tracks: seconds for which to remember that the task is queued. p_unknown: queues to be remembered.
-- Returns the last one's id.
CREATE OR REPLACE FUNCTION @add(
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
        SELECT nextval('@serial') AS id, u.queue, u.rank,
            CASE WHEN coalesce(u.delay, u.due) IS NOT NULL THEN
                @not_before(coalesce(moment + u.delay, u.due), moment) END AS due,
            u.body, u.task_id
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
        PERFORM pg_notify(w.channel, 'b' || w.id) FROM @waiter w WHERE w.id > @sleeper(4) AND w.queues && names;
    ELSIF names IS NOT NULL THEN
        PERFORM @call(names, counts);
    END IF;
    RETURN last;
END $$;

-- End leases whose messages are done. Returns the tokens that were held. Each row is looked up by owner and token: in a
-- join the planner, who takes the table to be small, would read all entries that the owner ever had.
CREATE OR REPLACE FUNCTION @settle(p_owner int, p_tokens bigint[], p_queues text[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ended bigint[];
    seated bigint[];
BEGIN
    WITH done AS (
        DELETE FROM @message m WHERE m.ctid = ANY (ARRAY(
            SELECT (SELECT f.ctid FROM @message f
                WHERE f.state = 1 AND f.owner = p_owner AND f.token = o.token AND f.queue = o.queue)
            FROM unnest(p_tokens, p_queues) o (token, queue)))
        RETURNING m.token, m.id, m.noted),
    gone AS (DELETE FROM @payload p USING done WHERE p.id = done.id)
    SELECT array_agg(token), array_agg(id) FILTER (WHERE noted & 2 <> 0) INTO ended, seated FROM done;
    IF seated IS NOT NULL THEN
        PERFORM @leave(seated);
    END IF;
    RETURN coalesce(ended, '{}');
END $$;

-- When the next delayed or parked message of these queues falls due; NULL if none waits. p_from: none is delayed to
-- an earlier time.
CREATE FUNCTION @next_due(p_queues text[], p_now float8, p_from float8) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    soonest float8;
    parked boolean;
    waiting boolean;
BEGIN
    SELECT min((SELECT m.due FROM @message m WHERE m.state = 2 AND m.queue = q AND m.due >= p_from
            ORDER BY m.queue, m.due LIMIT 1)),
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
CREATE FUNCTION @promote(p_queues text[], p_now float8, p_from float8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    line text;
    limits record;
BEGIN
    FOREACH line IN ARRAY p_queues LOOP
        WITH due AS MATERIALIZED (
            SELECT s.place, nextval('@serial') AS seq FROM (
                SELECT m.ctid AS place FROM @message m
                WHERE m.state = 2 AND m.queue = line AND m.due <= p_now AND m.due >= p_from
                ORDER BY m.queue, m.due, m.id LIMIT 100 FOR UPDATE SKIP LOCKED) s)
        UPDATE @message m SET state = 0, seq = due.seq, since = m.due, due = NULL, noted = 0, task_id = NULL
        FROM due WHERE m.ctid = due.place;
        FOR limits IN
            SELECT b.name, b.span FROM @bucket b
            WHERE (b.free <= p_now OR b.free > p_now + b.span) AND EXISTS (
                SELECT 1 FROM @message m WHERE m.state = 3 AND m.queue = line AND m.bucket = b.name)
            ORDER BY b.name FOR UPDATE SKIP LOCKED
        LOOP
            UPDATE @message m SET state = 0, seq = @back(seq), noted = m.noted | 1, bucket = NULL, task_id = NULL
            WHERE m.ctid = ANY (ARRAY(
                SELECT f.ctid FROM @message f WHERE f.state = 3 AND f.queue = line AND f.bucket = limits.name
                ORDER BY f.queue, f.bucket, f.seq LIMIT 1 FOR UPDATE));
            IF FOUND THEN
                UPDATE @bucket SET free = p_now + limits.span WHERE name = limits.name;
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- The stretches of a queue's index that may hold ready messages, in order: ranks from from_rank to before to_rank. One of
-- a single rank may be bounded by places too, from from_seq to before to_seq; what is left out lies below the marks, which
-- are ordered by rank. (Not by comparing rows: their upper bound does not end a scan within a rank.)
CREATE FUNCTION @stretches(p_queue text, m_queues text[], m_ranks int[], m_seqs bigint[])
RETURNS TABLE (from_rank int, to_rank int, from_seq bigint, to_seq bigint) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    least_seq CONSTANT bigint := -9223372036854775808;
    last_seq CONSTANT bigint := 9223372036854775807;
    next_rank int := -32768;
BEGIN
    FOR i IN 1 .. coalesce(array_length(m_queues, 1), 0) LOOP
        IF m_queues[i] = p_queue THEN
            RETURN QUERY VALUES (next_rank, m_ranks[i], least_seq, last_seq),
                (m_ranks[i], m_ranks[i] + 1, least_seq, 0::bigint), (m_ranks[i], m_ranks[i] + 1, m_seqs[i], last_seq);
            next_rank := m_ranks[i] + 1;
        END IF;
    END LOOP;
    RETURN QUERY VALUES (next_rank, 32768, least_seq, last_seq);
END $$;

-- The rank of the first ready message of a stretch; NULL if there is none.
CREATE FUNCTION @first_rank(p_queue text, p_from int, p_to int, p_from_seq bigint, p_to_seq bigint)
RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF p_to = p_from + 1 THEN
        RETURN (SELECT m.rank FROM @message m WHERE m.state = 0 AND m.queue = p_queue AND m.rank = p_from
            AND m.seq >= p_from_seq AND m.seq < p_to_seq ORDER BY m.queue, m.rank, m.seq LIMIT 1);
    END IF;
    RETURN (SELECT m.rank FROM @message m WHERE m.state = 0 AND m.queue = p_queue AND m.rank >= p_from AND m.rank < p_to
        ORDER BY m.queue, m.rank, m.seq LIMIT 1);
END $$;

-- Lease the first messages of a stretch of a queue's index. Returns how many.
CREATE FUNCTION @lease(
    p_owner int, p_queue text, p_from int, p_to int, p_from_seq bigint, p_to_seq bigint, p_limit int, p_base bigint,
    p_count int
) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    leased int;
BEGIN
    IF p_to = p_from + 1 THEN
        WITH first AS MATERIALIZED (
            SELECT m.ctid AS place, m.rank, m.seq, m.token FROM @message m
            WHERE m.state = 0 AND m.queue = p_queue AND m.rank = p_from
                AND m.seq >= p_from_seq AND m.seq < p_to_seq
            ORDER BY m.queue, m.rank, m.seq LIMIT p_limit FOR UPDATE SKIP LOCKED),
        numbered AS MATERIALIZED (
            SELECT place, row_number() OVER (ORDER BY rank, seq) AS number, max(token) OVER () + 1024 AS above FROM first)
        UPDATE @message m SET state = 1, owner = p_owner, token = greatest(p_base, n.above) + p_count + n.number
        FROM numbered n WHERE m.ctid = n.place;
    ELSE
        WITH first AS MATERIALIZED (
            SELECT m.ctid AS place, m.rank, m.seq, m.token FROM @message m
            WHERE m.state = 0 AND m.queue = p_queue AND m.rank >= p_from AND m.rank < p_to
            ORDER BY m.queue, m.rank, m.seq LIMIT p_limit FOR UPDATE SKIP LOCKED),
        numbered AS MATERIALIZED (
            SELECT place, row_number() OVER (ORDER BY rank, seq) AS number, max(token) OVER () + 1024 AS above FROM first)
        UPDATE @message m SET state = 1, owner = p_owner, token = greatest(p_base, n.above) + p_count + n.number
        FROM numbered n WHERE m.ctid = n.place;
    END IF;
    GET DIAGNOSTICS leased = ROW_COUNT;
    RETURN leased;
END $$;

-- The rank of the first ready message of a queue after a rank; NULL if there is none.
CREATE FUNCTION @next_lane(p_queue text, p_after int, m_queues text[], m_ranks int[], m_seqs bigint[])
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    part record;
    found_rank int;
BEGIN
    FOR part IN SELECT * FROM @stretches(p_queue, m_queues, m_ranks, m_seqs) WHERE to_rank > p_after + 1 LOOP
        found_rank := @first_rank(p_queue, greatest(part.from_rank, p_after + 1), part.to_rank, part.from_seq, part.to_seq);
        IF found_rank IS NOT NULL THEN
            RETURN found_rank;
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- Lease up to p_limit messages: those for which a place is free, then the lines of these queues, all lanes of
-- higher urgency first. p_above: the greatest token this owner has got. m_...: the marks, ordered by rank. Returns the
-- tokens' lower bound: all that was leased has a greater one, and nothing that the owner held before.
CREATE FUNCTION @claim(
    p_owner int, p_queues text[], p_limit int, p_above bigint, p_due boolean, m_queues text[], m_ranks int[],
    m_seqs bigint[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    -- Microseconds since 2024, and 13 bits that tell claims of one microsecond, and their messages, apart: a number
    -- that never goes back, also when a crash takes the last commits and the sequence's values with them.
    base bigint := (((extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 1704067200000000) << 13)
        + ((nextval('@claims') & 7) << 10);
    count int := 0;
    lane int := -32769;
    line text;
    part record;
BEGIN
    p_limit := least(p_limit, 8000);
    base := greatest(base, p_above + 1024);  -- the clock may have been set back
    IF p_due THEN
        count := @seat_waiting(p_owner, p_queues, p_limit, base, 0);
    END IF;
    IF array_length(p_queues, 1) = 1 THEN
        FOR part IN SELECT * FROM @stretches(p_queues[1], m_queues, m_ranks, m_seqs) LOOP
            EXIT WHEN count >= p_limit;
            -- Before the last stretch but one there is seldom anything: asking costs less than trying.
            CONTINUE WHEN part.to_rank < 32768 AND part.from_seq < 0 AND @first_rank(
                p_queues[1], part.from_rank, part.to_rank, part.from_seq, part.to_seq) IS NULL;
            count := count + @lease(p_owner, p_queues[1], part.from_rank, part.to_rank, part.from_seq, part.to_seq,
                p_limit - count, base, count);
        END LOOP;
    ELSE
        WHILE count < p_limit LOOP
            SELECT min(@next_lane(q, lane, m_queues, m_ranks, m_seqs)) INTO lane FROM unnest(p_queues) q;
            EXIT WHEN lane IS NULL;
            FOREACH line IN ARRAY p_queues LOOP
                FOR part IN SELECT * FROM @stretches(line, m_queues, m_ranks, m_seqs)
                    WHERE from_rank <= lane AND to_rank > lane
                LOOP
                    EXIT WHEN count >= p_limit;
                    count := count + @lease(p_owner, line, lane, lane + 1, part.from_seq, part.to_seq, p_limit - count, base,
                        count);
                END LOOP;
            END LOOP;
        END LOOP;
    END IF;
    IF count = 0 THEN
        RETURN NULL;
    END IF;
    IF count >= p_limit AND EXISTS (SELECT 1 FROM @waiter WHERE id > @sleeper(4)) THEN
        -- There may be more: whoever else is idle should look. Costs little while all are busy.
        PERFORM @call(p_queues, array_fill(1, ARRAY[array_length(p_queues, 1)]));
    END IF;
    RETURN base;
END $$;

-- Raise the marks of these lanes as far as it is known to be right, and that of the due times of p_queues, p_from.
-- p_limit, p_due: how far they may be raised, and p_witnesses: who must have ended for that. Returns the marks, and what
-- to say the next time; o_witnesses is NULL if somebody has not ended yet.
CREATE FUNCTION @raise(
    p_queues text[], m_queues text[], m_ranks int[], m_seqs bigint[], p_from float8, p_limit bigint, p_due float8, p_witnesses text[]
) RETURNS TABLE (o_seqs bigint[], o_from float8, o_limit bigint, o_due float8, o_witnesses text[])
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off AS $$
BEGIN
    -- First the limits, then who may still store something below them.
    SELECT s.last_value, @now() - 60 INTO o_limit, o_due FROM @serial s;
    SELECT coalesce(array_agg(l.virtualtransaction), '{}') INTO o_witnesses FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.relation = '@message'::regclass AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock');
    -- A transaction that is prepared (two-phase commit) goes on under another name.
    IF p_witnesses && o_witnesses OR EXISTS (SELECT 1 FROM unnest(o_witnesses) w WHERE w LIKE '-1/%') THEN
        o_witnesses := NULL;
        RETURN NEXT;
        RETURN;
    END IF;
    -- A snapshot taken from here on sees all that they have stored.
    SELECT array_agg(least(p_limit + 1, (
            SELECT m.seq FROM @message m WHERE m.state = 0 AND m.queue = u.queue AND m.rank = u.rank AND m.seq >= u.seq
            ORDER BY m.queue, m.rank, m.seq LIMIT 1)) ORDER BY u.place)
    INTO o_seqs FROM unnest(m_queues, m_ranks, m_seqs) WITH ORDINALITY u (queue, rank, seq, place);
    SELECT least(p_due, min((
        SELECT m.due FROM @message m WHERE m.state = 2 AND m.queue = q AND m.due >= p_from
        ORDER BY m.queue, m.due LIMIT 1)))
    INTO o_from FROM unnest(p_queues) q;
    RETURN NEXT;
END $$;

-- What one who lies down, or is about to, must know: whether a message is ready, in how many seconds the next one falls
-- due, and its entry in the list of sleepers. p_entry: the one it has, 0 if none: it gets one then, and a new one after
-- 2 seconds; o_entry is 0 if p_entry is not on the list any more. p_channel: NULL for one that cannot be called.
CREATE FUNCTION @look(
    p_owner int, p_entry bigint, p_channel text, p_queues text[], m_queues text[], m_ranks int[], m_seqs bigint[],
    p_from float8
) RETURNS TABLE (o_ready boolean, o_due float8, o_entry bigint) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    open text[];
BEGIN
    o_entry := 0;
    IF p_channel IS NOT NULL THEN
        IF p_entry = 0 THEN
            o_entry := @lie_down(p_owner, p_channel, p_queues);
        ELSIF p_entry > @sleeper(2) THEN
            SELECT id INTO o_entry FROM @waiter WHERE id = p_entry;
            o_entry := coalesce(o_entry, 0);
        ELSE
            DELETE FROM @waiter WHERE id = p_entry;
            IF FOUND THEN
                o_entry := @lie_down(p_owner, p_channel, p_queues);
            END IF;
        END IF;
    END IF;
    open := ARRAY(SELECT q FROM unnest(p_queues) q WHERE NOT EXISTS (SELECT 1 FROM @paused p WHERE p.queue = q));
    o_ready := EXISTS (SELECT 1 FROM unnest(open) q WHERE @next_lane(q, -32769, m_queues, m_ranks, m_seqs) IS NOT NULL);
    o_due := @next_due(open, @now(), p_from) - @now();
    RETURN NEXT;
END $$;

-- What follows settling in an exchange: promote, claim, note the answer in place of that of p_forget. p_entry: the
-- consumer's among the sleepers, or 0. p_channel: where it is called, or NULL: if nothing was claimed it is among them
-- from the commit on. Returns the claimed messages, and last a row of its own: clock, next due time, version of
-- the orders, entry among the sleepers.
CREATE FUNCTION @take(
    p_owner int, p_request bigint, p_forget bigint, p_above bigint, p_refused bigint[], p_owed text[], p_note boolean,
    p_queues text[], p_limit int, m_queues text[], m_ranks int[], m_seqs bigint[], p_from float8, p_entry bigint,
    p_channel text)
RETURNS TABLE (o_token bigint, o_queue text, o_rank smallint, o_noted smallint, o_payload bytea,
    o_refused bigint[], o_owed text[], o_now float8, o_due float8, o_version bigint, o_entry bigint)
LANGUAGE plpgsql AS $$
DECLARE
    stopped text[];
    listed text[] := p_queues;
    base bigint;
BEGIN
    o_now := @now();
    SELECT s.version, ARRAY(SELECT queue FROM @paused) INTO o_version, stopped FROM @state s;
    IF stopped <> '{}' THEN
        p_queues := ARRAY(SELECT q FROM unnest(p_queues) WITH ORDINALITY u (q, place)
            WHERE q <> ALL (stopped) ORDER BY place);
    END IF;
    IF p_queues <> '{}' THEN
        o_due := @next_due(p_queues, o_now, p_from);
        IF p_limit > 0 THEN
            IF o_due <= o_now THEN
                PERFORM @promote(p_queues, o_now, p_from);
                base := @claim(p_owner, p_queues, p_limit, p_above, true, m_queues, m_ranks, m_seqs);
                o_due := @next_due(p_queues, o_now, p_from);
            ELSE
                base := @claim(p_owner, p_queues, p_limit, p_above, false, m_queues, m_ranks, m_seqs);
            END IF;
        END IF;
    END IF;
    IF p_note OR base IS NOT NULL THEN
        DELETE FROM @answer WHERE owner = p_owner AND request = p_forget;
        INSERT INTO @answer (owner, request, first, refused, owed)
        VALUES (p_owner, p_request, coalesce(base, 9223372036854775807), p_refused, p_owed);
    END IF;
    IF p_entry > 0 THEN
        PERFORM @get_up(p_entry);
    END IF;
    IF base IS NOT NULL THEN
        RETURN QUERY SELECT m.token, m.queue::text, m.rank, m.noted, p.body, NULL::bigint[], NULL::text[],
            NULL::float8, NULL::float8, NULL::bigint, NULL::bigint
        FROM @message m JOIN @payload p ON p.id = m.id
        WHERE m.state = 1 AND m.owner = p_owner AND m.token > base ORDER BY m.owner, m.token;
    ELSIF p_limit > 0 AND p_channel IS NOT NULL THEN
        o_entry := @lie_down(p_owner, p_channel, listed);
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
    p_queues text[], p_limit int, m_queues text[], m_ranks int[], m_seqs bigint[], p_from float8, p_entry bigint,
    p_channel text)
RETURNS TABLE (o_token bigint, o_queue text, o_rank smallint, o_noted smallint, o_payload bytea,
    o_refused bigint[], o_owed text[], o_now float8, o_due float8, o_version bigint, o_entry bigint) LANGUAGE plpgsql
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
        p_tokens <> '{}', p_queues, p_limit, m_queues, m_ranks, m_seqs, p_from, p_entry, p_channel);
END $$;

-- The recorded answer of an exchange that may have been carried out. Returns as take; nothing if it was not.
CREATE FUNCTION @recorded(p_owner int, p_request bigint, p_queues text[], p_from float8)
RETURNS TABLE (o_token bigint, o_queue text, o_rank smallint, o_noted smallint, o_payload bytea,
    o_refused bigint[], o_owed text[], o_now float8, o_due float8, o_version bigint, o_entry bigint)
LANGUAGE plpgsql AS $$
DECLARE
    known record;
BEGIN
    PERFORM @hold(p_owner);
    SELECT * INTO known FROM @answer a WHERE a.owner = p_owner AND a.request = p_request;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT m.token, m.queue::text, m.rank, m.noted, p.body, NULL::bigint[], NULL::text[],
        NULL::float8, NULL::float8, NULL::bigint, NULL::bigint
    FROM @message m JOIN @payload p ON p.id = m.id
    WHERE m.state = 1 AND m.owner = p_owner AND m.token > known.first ORDER BY m.owner, m.token;
    o_refused := known.refused;
    o_owed := known.owed;
    o_now := @now();
    o_due := @next_due(p_queues, o_now, p_from);
    SELECT s.version INTO o_version FROM @state s;
    RETURN NEXT;
END $$;
