/* What went wrong, where, and what to look at. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "ptx_parse.h"

bool report_plain(Sim *sim, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(sim->error, sizeof sim->error, format, args);
	va_end(args);
	return false;
}

bool load_error(SimModule *module, uint32_t line, const char *format, ...)
{
	char what[1024], text[200];
	va_list args;
	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	return report_plain(module->sim, "PTX line %u: %s\n  %s", line, what, module_line(module, line, text, sizeof text));
}

const char *module_line(const SimModule *module, uint32_t line, char *buffer, size_t size)
{
	const char *at = module->text, *end = module->text + module->length;
	for (uint32_t n = 1; n < line && at < end; n++) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		at = newline ? newline + 1 : end;
	}
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	size_t length = 0;
	for (; at + length < end && at[length] != '\n' && at[length] != '\r' && length + 1 < size; length++)
		buffer[length] = at[length] == '\t' ? ' ' : at[length];
	buffer[length] = 0;
	return buffer;
}

/* lane -1: the whole warp. */
bool report_at(Warp *w, const Inst *in, int lane, const char *format, ...)
{
	const Cta *cta = w->cta;
	char what[1400], text[200], source[300] = "", lane_text[24] = "";
	va_list args;
	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	if (in->source_line && in->file < cta->module->n_files && cta->module->files[in->file])
		snprintf(source, sizeof source, " (%.256s:%u)", cta->module->files[in->file], in->source_line);
	if (lane >= 0)
		snprintf(lane_text, sizeof lane_text, ", lane %d", lane);
	return report_plain(cta->sim, "%s\n  in kernel '%.*s', CTA (%u,%u,%u), warp %u%s\n  at PTX line %u%s: %s", what,
		NAME_BYTES, cta->kernel->name, cta->id[0], cta->id[1], cta->id[2], w->number, lane_text, in->line, source,
		module_line(cta->module, in->line, text, sizeof text));
}

static void describe_one(const Allocation *a, uint64_t distance, const char *where, char *buffer, size_t size)
{
	snprintf(buffer, size, "%llu bytes %s the allocation of %llu bytes at 0x%llx%s", (unsigned long long)distance,
		where,
		(unsigned long long)a->size, (unsigned long long)a->base, a->released ? " (released)" : "");
}

const char *describe_address(Sim *sim, uint64_t address, char *buffer, size_t size)
{
	const Allocation *nearest = NULL;
	uint64_t best = UINT64_MAX;
	for (size_t i = 0; i < sim->n_allocations; i++) {
		const Allocation *a = &sim->allocations[i];
		uint64_t distance = address < a->base ? a->base - address
			: address - a->base < a->size ? 0 : address - a->base - a->size;
		if (distance < best || (distance == best && nearest && nearest->released)) {
			best = distance;
			nearest = a;
		}
	}
	if (!nearest)
		snprintf(buffer, size, "nothing is allocated");
	else if (address < nearest->base)
		describe_one(nearest, best, "before", buffer, size);
	else if (address - nearest->base < nearest->size)
		describe_one(nearest, address - nearest->base, "into", buffer, size);
	else
		describe_one(nearest, best, "past the end of", buffer, size);
	return buffer;
}
