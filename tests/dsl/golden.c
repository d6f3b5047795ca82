#include "golden.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 18 };

char *golden_read(Arena *arena, const char *path, size_t *length)
{
	FILE *file = fopen(path, "rb");
	if (!file)
		return NULL;
	char *text = arena_alloc(arena, MAX_FILE);
	*length = fread(text, 1, MAX_FILE - 1, file);
	fclose(file);
	return text;
}

static int is_lua(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');
	return dot && strcmp(dot, ".lua") == 0;
}

int golden_each(const char *folder, void (*run)(const char *path, const char *name))
{
	struct dirent **entries;
	int count = scandir(folder, &entries, is_lua, alphasort);
	for (int k = 0; k < count; k++) {
		const char *file = entries[k]->d_name;
		Arena *arena = arena_new();
		run(arena_printf(arena, "%s/%s", folder, file), arena_strndup(arena, file, strlen(file) - 4));
		arena_free(arena);
		free(entries[k]);
	}
	if (count >= 0)
		free(entries);
	return count;
}

bool golden_matches(Arena *arena, const char *path, const char *got, bool update)
{
	size_t length;
	if (update) {
		FILE *file = fopen(path, "wb");
		bool written = file && fputs(got, file) >= 0;
		return (!file || fclose(file) == 0) && written;
	}
	const char *want = golden_read(arena, path, &length);
	if (want && strcmp(want, got) == 0)
		return true;
	printf("%s: got\n%sand not\n%s(tests/dsl/update rewrites it)\n", path, got, want ? want : "a file\n");
	return false;
}

char *golden_text(Arena *arena, GoldenWriter *write, void *user)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	if (!out)
		return "";
	write(user, out);
	fclose(out);
	char *result = arena_strndup(arena, text, size);
	free(text);
	return result;
}
