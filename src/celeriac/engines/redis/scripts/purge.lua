-- Delete the ready, delayed and parked messages of one queue.
--
-- ARGV  1 queue
-- Returns how many there were.

return empty(ARGV[1])
