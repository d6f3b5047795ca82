/* Loads a spec and prints it: `spec_dump SPEC [--expr] [key=value]...`. Exit 1 with diagnostics on stdout. */
#include <stdlib.h>
#include <string.h>
#include "spec.h"

static char *read_file(Arena *arena, const char *path, size_t *length)
{
	FILE *file = fopen(path, "rb");
	if (!file)
		return NULL;
	static char buffer[1 << 20];
	*length = fread(buffer, 1, sizeof buffer, file);
	fclose(file);
	return arena_strndup(arena, buffer, *length);
}

int main(int argc, char **argv)
{
	Arena *arena = arena_new();
	SpecOption options[16] = { 0 };
	int option_count = 0;
	bool expressions = false;
	size_t length = 0;
	char *source = argc > 1 && arena ? read_file(arena, argv[1], &length) : NULL;
	if (!source) {
		fprintf(stderr, "usage: spec_dump SPEC [--expr] [key=value]...\n");
		arena_free(arena);
		return 2;
	}
	for (int k = 2; k < argc && option_count < 16; k++) {
		char *equals = strchr(argv[k], '=');
		if (strcmp(argv[k], "--expr") == 0)
			expressions = true;
		else if (equals)
			options[option_count++] = (SpecOption){
				arena_strndup(arena, argv[k], (size_t)(equals - argv[k])), equals + 1, false };
	}
	const char *slash = strrchr(argv[1], '/'), *path = slash ? slash + 1 : argv[1];
	Diag *diag = diag_new(arena, path, source);
	Spec *spec = spec_load(arena, diag, path, source, length, options, option_count);
	diag_print(diag, stdout);
	if (spec && expressions)
		spec_print_expressions(spec, stdout);
	else if (spec)
		spec_print(spec, stdout);
	arena_free(arena);
	return spec ? 0 : 1;
}
