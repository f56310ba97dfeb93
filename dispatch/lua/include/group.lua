-- Makes the consumer group of an inbox at its very beginning, so that what came before it is read too; answers whether it
-- was missing (a new instance, or Redis lost its data). From now on the inbox lives as long as its instance wants.
local function open_group()
  local made = redis.pcall("XGROUP", "CREATE", inbox, group, "0", "MKSTREAM")
  if made.err and not string.find(made.err, "BUSYGROUP", 1, true) then error(made.err) end
  redis.call("PERSIST", inbox)
  return not made.err
end
