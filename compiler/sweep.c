#include "sweep.h"

#include <math.h>
#include <string.h>

#include "../runtime/number.h"

static bool refuse(Arena *arena, const char **problem, const char *format, const char *word)
{
	*problem = arena_printf(arena, format, word);
	return false;
}

/* The text up to one of `ends`, or to its own end. */
static const char *take(Arena *arena, const char **at, const char *ends)
{
	size_t length = strcspn(*at, ends);
	const char *word = arena_strndup(arena, *at, length);

	*at += length;
	*at += **at != '\0';
	return word;
}

/* FROM:TO:STEP, both ends included where the steps reach them. */
static bool parse_range(Arena *arena, const char *text, Sweep *sweep, const char **problem)
{
	static const char *const parts[] = { "the first value", "the last value", "the step" };
	const char *at = text;
	double number[3];

	for (int n = 0; n < 3; n++) {
		const char *word = take(arena, &at, ":");

		if (!number_parse(word, strlen(word), &number[n]) || !isfinite(number[n]))
			return refuse(arena, problem, arena_printf(arena, "%s of a range FROM:TO:STEP must be a number, not '%%s'",
				parts[n]), word);
	}
	if (*at)
		return refuse(arena, problem, "a range is FROM:TO:STEP, as in 0.5:1.5:0.25, not '%s'", text);
	if (number[2] == 0)
		return refuse(arena, problem, "the step of '%s' is 0", text);
	double steps = floor((number[1] - number[0]) / number[2] + 1e-9);

	if (steps < 0)
		return refuse(arena, problem, "'%s' holds no value: its step leads away from its end", text);
	if (!(steps < SWEEP_MAX_VALUES))
		return refuse(arena, problem, "'%s' holds more than 1000 values", text);
	sweep->count = (int)steps + 1;
	sweep->values = ARENA_ARRAY(arena, const char *, sweep->count);
	for (int n = 0; n < sweep->count; n++)
		sweep->values[n] = arena_printf(arena, "%.10g", number[0] + n * number[2]);
	return true;
}

static bool parse_list(Arena *arena, const char *text, Sweep *sweep, const char **problem)
{
	const char *at = text;

	sweep->values = ARENA_ARRAY(arena, const char *, strlen(text) + 1);
	while (*at) {
		const char *word = take(arena, &at, ",");

		if (!*word || (!*at && at[-1] == ','))
			return refuse(arena, problem, "there is a comma without a value beside it in '%s'", text);
		sweep->values[sweep->count++] = word;
	}
	if (sweep->count > SWEEP_MAX_VALUES)
		return refuse(arena, problem, "'%.20s...' holds more than 1000 values", text);
	return true;
}

bool sweep_parse(Arena *arena, const char *text, Sweep *sweep, const char **problem)
{
	size_t key = strcspn(text, "=");
	const char *values = text + key + 1;

	*sweep = (Sweep){0};
	if (key == 0 || text[key] != '=')
		return refuse(arena, problem, "it takes NAME=VALUES, not '%s'", text);
	if (!*values)
		return refuse(arena, problem, "'%s' gives no value: write 1,2,3 or 0.5:1.5:0.25", text);
	sweep->name = arena_strndup(arena, text, key);
	return (strchr(values, ':') ? parse_range : parse_list)(arena, values, sweep, problem);
}
