-- Look for owed bodies, or take one.
--
-- ARGV  nothing, or: group, by whom
-- Returns the groups that may be taken; or { body or nil, payload of a part ... }, nil if it may not be taken.

-- include: chords

go_on_at_maxmemory()
if #ARGV == 0 then return chords().owed((clock())) end
return chords().take(ARGV[1], ARGV[2], (clock()))
