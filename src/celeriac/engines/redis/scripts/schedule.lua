-- Tell which entries have changed after a version. A script, for a transaction is refused at maxmemory.
--
-- ARGV  1 the version, 0 for all there is
-- Returns { version, 1 if all there is is told, names removed, { name, version, ... } }.

-- include: entries

local known = call('HMGET', SCHEDULE, 'version', 'forgotten')
local since, version = tonumber(ARGV[1]), tonumber(known[1] or 0)
local complete = since == 0 or since < tonumber(known[2] or 0) or since > version
local after = '(' .. (complete and '0' or ARGV[1])
return {
  version,
  complete and 1 or 0,
  complete and {} or call('ZRANGEBYSCORE', REMOVED, after, '+inf'),
  call('ZRANGEBYSCORE', VERSIONS, after, '+inf', 'WITHSCORES'),
}
