-- Add attempts to the history.
--
-- ARGV  the attempts, oldest first

-- include: history

go_on_at_maxmemory()
note(1, #ARGV)
