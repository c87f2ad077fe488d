-- Put messages back in line that a worker of Celery's held when it ended, each on condition that it is still held
-- as it was read. Celery's workers do this in a transaction that watches the same keys.
--
-- KEYS  1 unacked, 2 unacked_index, 3 unacked_mutex (kombu's: what is held, since when, who is putting back)
-- ARGV  for each message: delivery tag, what was read, how many queues, for each queue: its name, lane; envelope
-- Returns how many were put back, or -1 if a worker of Celery's is at it.

if call('EXISTS', KEYS[3]) == 1 then return -1 end
go_on_at_maxmemory()
local adopted, at = 0, 1
while ARGV[at] do
  local tag, count = ARGV[at], tonumber(ARGV[at + 2])
  local envelope = ARGV[at + 3 + 2 * count]
  if call('HGET', KEYS[1], tag) == ARGV[at + 1] then
    call('HDEL', KEYS[1], tag)
    call('ZREM', KEYS[2], tag)
    for i = at + 3, at + 2 + 2 * count, 2 do
      call('RPUSH', line(ARGV[i], tonumber(ARGV[i + 1])), envelope)
      wake(ARGV[i])
    end
    adopted = adopted + 1
  end
  at = at + 4 + 2 * count
end
return adopted
