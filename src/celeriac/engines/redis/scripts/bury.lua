-- Store dead letters of another store.
--
-- KEYS  1 set of known queues, 2 hash of the control record
-- ARGV  1 queue, then for each: lane, JSON (reason, detail, task, id), epoch seconds of its death, envelope
-- Returns nothing.

local queue = ARGV[1]
local index, letters = own(queue, 'dead'), own(queue, 'dead:letters')
local now, now_us = clock()
local token = math.max(tonumber(call('HGET', KEYS[2], 'token') or 0), now_us)
call('SADD', KEYS[1], queue)
for i = 2, #ARGV, 4 do
  token = token + 1
  local key = string.format('%.0f', token) .. '@' .. queue
  call('HSET', letters, key, ARGV[i] .. '|' .. ARGV[i + 1] .. '\n' .. ARGV[i + 3])
  call('ZADD', index, ARGV[i + 2], key)
end
call('HSET', KEYS[2], 'token', string.format('%.0f', token))
local surplus = call('ZCARD', index) - DEAD_MAX
while surplus > 0 do
  local old = call('ZRANGE', index, 0, math.min(surplus, 100) - 1)
  call('ZREM', index, unpack(old))
  call('HDEL', letters, unpack(old))
  surplus = surplus - #old
end
