-- Begin a chord, unless it is open or done.
--
-- ARGV  1 group, 2 size, 3 body, 4 ms to keep it or ''

-- include: chords

chords().open(ARGV[1], ARGV[2], ARGV[3], ARGV[4], (clock()))
return redis.status_reply('OK')
