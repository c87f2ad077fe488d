-- Periodic tasks. To be included.
--   schedule            HASH version, forgotten (removals at this version and before may be forgotten)
--   schedule:entries    HASH name -> <enabled: 1 or 0>|<source>|<definition>
--   schedule:ticks      HASH name -> <since>|<last due>|<last run>|<runs>|<skipped>|<last id>
--   schedule:versions   ZSET name -> version at which it changed last
--   schedule:removed    ZSET name -> version at which it was removed

local SCHEDULE = PREFIX .. 'celeriac:schedule'
local ENTRIES, TICKS, VERSIONS, REMOVED =
  SCHEDULE .. ':entries', SCHEDULE .. ':ticks', SCHEDULE .. ':versions', SCHEDULE .. ':removed'

local changed_to

-- The version of the changes of this step.
local function next_version()
  changed_to = changed_to or call('HINCRBY', SCHEDULE, 'version', 1)
  return changed_to
end
