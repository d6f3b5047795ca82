#include "diag.h"

#include <stdarg.h>
#include <string.h>

typedef enum Severity { SEVERITY_ERROR, SEVERITY_WARNING, SEVERITY_NOTE, SEVERITY_INTERNAL } Severity;

static const char *const severity_names[] = { "error", "warning", "note", "internal error" };

/* A quoted line is cut to this many bytes, so that a machine-made spec can't flood the terminal. */
enum { QUOTE_WIDTH = 160 };

typedef struct Entry Entry;
struct Entry {
	Entry *next;
	Severity severity;
	Loc loc;
	char *text;
};

struct Diag {
	Arena *arena;
	const char *path, *source;
	Entry *first, **end;
	int errors;
	bool internal;
};

Diag *diag_new(Arena *arena, const char *path, const char *source)
{
	Diag *diag = ARENA_NEW(arena, Diag);
	diag->arena = arena;
	diag->path = path;
	diag->source = source;
	diag->end = &diag->first;
	return diag;
}

static void add(Diag *diag, Severity severity, Loc loc, const char *format, va_list args)
{
	Entry *entry = ARENA_NEW(diag->arena, Entry);
	entry->severity = severity;
	entry->loc = loc;
	entry->text = arena_vprintf(diag->arena, format, args);
	*diag->end = entry;
	diag->end = &entry->next;
	if (severity == SEVERITY_ERROR || severity == SEVERITY_INTERNAL)
		diag->errors++;
	if (severity == SEVERITY_INTERNAL)
		diag->internal = true;
}

#define DEFINE_DIAG(name, severity) \
	void name(Diag *diag, Loc loc, const char *format, ...) \
	{ \
		va_list args; \
		va_start(args, format); \
		add(diag, severity, loc, format, args); \
		va_end(args); \
	}

DEFINE_DIAG(diag_error, SEVERITY_ERROR)
DEFINE_DIAG(diag_warning, SEVERITY_WARNING)
DEFINE_DIAG(diag_note, SEVERITY_NOTE)
DEFINE_DIAG(diag_internal, SEVERITY_INTERNAL)

int diag_error_count(const Diag *diag)
{
	return diag->errors;
}

bool diag_has_internal(const Diag *diag)
{
	return diag->internal;
}

const char *diag_path(const Diag *diag)
{
	return diag->path;
}

/* The text of a line, counted from 1; NULL when the source has no such line. */
static const char *source_line(const char *source, int line, size_t *length)
{
	for (; source && line > 1; line--) {
		source = strchr(source, '\n');
		source = source ? source + 1 : NULL;
	}
	if (!source)
		return NULL;
	*length = strcspn(source, "\r\n");
	return source;
}

/* Control characters of a spec must not reach the terminal. */
static void print_text(FILE *out, const char *text, size_t length)
{
	for (size_t k = 0; k < length; k++) {
		unsigned char c = (unsigned char)text[k];
		fputc((c < ' ' && c != '\t' && c != '\n') || c == 127 ? '?' : c, out);
	}
}

static void print_quote(FILE *out, const char *text, size_t length, Loc loc)
{
	size_t column = loc.column > 0 ? (size_t)loc.column - 1 : 0, start = 0;
	if (column > length)
		column = length;
	if (column > QUOTE_WIDTH * 3 / 4)
		start = column - QUOTE_WIDTH / 2;
	size_t end = length - start > QUOTE_WIDTH ? start + QUOTE_WIDTH : length;
	fprintf(out, "%5d | ", loc.line);
	print_text(out, text + start, end - start);
	fputc('\n', out);
	if (loc.column <= 0)
		return;
	fputs("      | ", out);
	for (size_t k = start; k < column; k++) {
		unsigned char c = (unsigned char)text[k];
		if ((c & 0xC0) != 0x80)                        /* a UTF-8 character takes one column */
			fputc(c == '\t' ? '\t' : ' ', out);
	}
	fputs("^\n", out);
}

static void print_entry(const Diag *diag, const Entry *entry, FILE *out)
{
	Loc loc = entry->loc;
	fputs(diag->path ? diag->path : "tdagen", out);
	if (loc.line > 0)
		fprintf(out, ":%d", loc.line);
	if (loc.line > 0 && loc.column > 0)
		fprintf(out, ":%d", loc.column);
	fprintf(out, ": %s: ", severity_names[entry->severity]);
	print_text(out, entry->text, strlen(entry->text));
	fputc('\n', out);
	size_t length;
	const char *text = loc.line > 0 ? source_line(diag->source, loc.line, &length) : NULL;
	if (text)
		print_quote(out, text, length, loc);
}

void diag_print(Diag *diag, FILE *out)
{
	for (const Entry *entry = diag->first; entry; entry = entry->next)
		print_entry(diag, entry, out);
	diag->first = NULL;
	diag->end = &diag->first;
}
