#include "main_read.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { SPEC_BYTES_MAX = 1 << 24 };     /* a spec is written by hand */

static const Loc nowhere = { 0, 0 };

char *main_read_spec(Arena *arena, Diag *diag, const char *path, size_t *length)
{
	FILE *file = fopen(path, "rb");
	char *text = NULL;
	size_t room = 1 << 14;

	*length = 0;
	while (file && !ferror(file) && !feof(file) && *length < SPEC_BYTES_MAX) {
		char *larger = arena_alloc(arena, room + 1);

		if (text)
			memcpy(larger, text, *length);
		text = larger;
		*length += fread(text + *length, 1, room - *length, file);
		room *= 2;
	}
	bool ok = file && !ferror(file) && feof(file);

	if (!ok) {
		diag_error(diag, nowhere, "cannot read it: %s",
			*length >= SPEC_BYTES_MAX ? "more than 16 MiB is no spec" : strerror(errno));
	}
	if (file)
		fclose(file);
	return ok ? text : NULL;
}
