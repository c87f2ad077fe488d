-- Periodic tasks. To be included. All keys end with SCOPE.
--   schedule:version    HASH version, forgotten (removals at this version and before may be forgotten)
--   schedule:entries    HASH name -> <enabled: 1 or 0>|<source>|<definition>
--   schedule:ticks      HASH name -> <since>|<last due>|<last run>|<runs>|<skipped>|<last id>
--   schedule:versions   ZSET name -> version at which it changed last
--   schedule:removed    ZSET name -> version at which it was removed

local function of_schedule(what) return PREFIX .. 'celeriac:schedule:' .. what .. SCOPE end

local SCHEDULE, ENTRIES, TICKS, VERSIONS, REMOVED = of_schedule('version'), of_schedule('entries'), of_schedule('ticks'),
  of_schedule('versions'), of_schedule('removed')

local changed_to

-- The version of the changes of this step.
local function next_version()
  changed_to = changed_to or call('HINCRBY', SCHEDULE, 'version', 1)
  return changed_to
end
