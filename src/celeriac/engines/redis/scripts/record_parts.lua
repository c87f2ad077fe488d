-- Record parts of chords.
--
-- ARGV  1 by whom, then for each part the words in chords.lua
-- Returns the groups that are owed because of them.

-- include: chords

local owed = {}
go_on_at_maxmemory()
chords().record(2, (#ARGV - 1) / 7, ARGV[1], (clock()), owed)
return owed
