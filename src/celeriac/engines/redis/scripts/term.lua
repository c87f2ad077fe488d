-- The term of the scheduler that leads. To be included. The key ends with SCOPE.
--   schedule:leader  HASH holder, token, expires (epoch seconds), ttl;  it stays when the term is over

local LEADER = PREFIX .. 'celeriac:schedule:leader' .. SCOPE

-- Returns whether a term runs, its holder and its token. One that ends later than a full ttl from now is of a clock
-- that was set back.
local function term(now)
  local kept = call('HMGET', LEADER, 'holder', 'token', 'expires', 'ttl')
  local expires = tonumber(kept[3] or 0)
  local runs = now < expires and expires <= now + tonumber(kept[4] or 0) + CLOCK_STEP
  return runs, kept[1], kept[2] or '0'
end

-- Returns an error unless holder leads under token; with holder '' nothing.
local function fenced(holder, token, now)
  if holder == '' then return nil end
  local runs, leader, current = term(now)
  if runs and leader == holder and current == token then return nil end
  return redis.error_reply('FENCED the term ' .. token .. ' of scheduler ' .. holder .. ' is over: it was not renewed in'
    .. ' time, or another leads. Nothing was stored; take the term again (lead) before anything else')
end
