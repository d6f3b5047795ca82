-- Completes the environment of specs. `env` holds the functions that C registered; guard(t, library) makes reading an
-- absent field of t an error with a suggestion. Runs with all of Lua's libraries; what isn't named here stays outside.
local env, guard = ...

local function only(library, names)
	local safe = {}
	for name in names:gmatch("%w+") do
		safe[name] = library[name]
	end
	return safe
end

-- No patterns, sorting or moving: they can run for hours in one instruction. No random: a spec means one thing.
env.math = only(math, "abs ceil cos exp floor fmod huge log max maxinteger min mininteger modf pi sin sqrt tan tointeger type")
env.string = only(string, "byte char format len lower reverse sub upper")
env.table = only(table, "concat insert pack remove unpack")

local rep = string.rep
function env.string.rep(text, count, separator)
	if count > 1000000 then
		env.error("string.rep: at most a million repetitions")
	end
	return rep(text, count, separator)
end

for _, name in ipairs { "ipairs", "select", "tonumber", "tostring", "type" } do
	env[name] = _G[name]
end
env.pi = math.pi

function env.assert(value, message, ...)
	if not value then
		env.error(message or "assertion failed")
	end
	return value, message, ...
end

guard(env)
for _, library in ipairs { "math", "string", "table" } do
	guard(env[library], library)
end
return env
