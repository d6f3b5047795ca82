/*
 * The folder in which programs keep compiled specs. runtime/python/tda/_cache.py writes it, and says which folder it is, what
 * keys are made of and when entries go; here only names and seals count:
 *
 *     tda-DIGEST.ptx     an entry: whole, and sealed by the digest in its manifest; its time is that of the last use
 *     tda-DIGEST.lock    held while a process compiles it
 *     tda-*.tmp          an entry that is being written, or that a process left half-written
 *
 * Whatever else lies there is not touched.
 */
#include "main_cache.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../runtime/tda.h"

enum { DIGEST_DIGITS = 64 };

static const char prefix[] = "tda-";

typedef struct Entry {
	const char *key;                   /* the name without .ptx */
	const char *path;
	long long bytes;
	time_t used;
} Entry;

typedef struct Cache {
	const char *folder;
	Entry *entries;                    /* the latest used first */
	int count;
	long long bytes;
	const char **leftovers;            /* paths of locks and of unfinished entries */
	int leftover_count;
} Cache;

static const char *set_in_environment(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

static const char *cache_folder(Arena *arena)
{
	const char *named = set_in_environment("TDA_CACHE_DIR");
	const char *caches = set_in_environment("XDG_CACHE_HOME");
	const char *home = set_in_environment("HOME");

	if (named)
		return named;
	return caches ? arena_printf(arena, "%s/tdagen", caches) : arena_printf(arena, "%s/.cache/tdagen", home ? home : "");
}

static bool ends_with(const char *name, const char *end)
{
	size_t length = strlen(name), tail = strlen(end);

	return length >= tail && strcmp(name + length - tail, end) == 0;
}

static bool is_entry(const char *name)
{
	const char *digest = name + strlen(prefix);

	return strspn(digest, "0123456789abcdef") == DIGEST_DIGITS && strcmp(digest + DIGEST_DIGITS, ".ptx") == 0;
}

static void add_file(Arena *arena, Cache *cache, const char *name)
{
	const char *path = arena_printf(arena, "%s/%s", cache->folder, name);
	struct stat status;

	if (ends_with(name, ".lock") || ends_with(name, ".tmp")) {
		cache->leftovers[cache->leftover_count++] = path;
	} else if (is_entry(name) && stat(path, &status) == 0) {   /* another process may have removed it */
		cache->entries[cache->count++] = (Entry){ arena_strndup(arena, name, strlen(name) - strlen(".ptx")), path,
			(long long)status.st_size, status.st_mtime };
		cache->bytes += (long long)status.st_size;
	}
}

static int later_first(const void *left, const void *right)
{
	const Entry *a = left, *b = right;

	return a->used != b->used ? (a->used < b->used) - (a->used > b->used) : strcmp(a->key, b->key);
}

/* False, with errno, where the folder can't be read; one that is missing is empty. */
static bool read_cache(Arena *arena, Cache *cache)
{
	struct dirent **names;
	int count = scandir(cache->folder, &names, NULL, alphasort);

	if (count < 0)
		return errno == ENOENT;
	cache->entries = ARENA_ARRAY(arena, Entry, count + 1);
	cache->leftovers = ARENA_ARRAY(arena, const char *, count + 1);
	for (int i = 0; i < count; i++) {
		if (strncmp(names[i]->d_name, prefix, strlen(prefix)) == 0)
			add_file(arena, cache, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	qsort(cache->entries, (size_t)cache->count, sizeof *cache->entries, later_first);
	return true;
}

static void print_totals(const Cache *cache, const char *what, int damaged)
{
	printf("%s: %d entries, %lld bytes%s", cache->folder, cache->count, cache->bytes, what);
	if (damaged >= 0)
		printf(", %d damaged", damaged);
	putchar('\n');
}

static int list(const Cache *cache)
{
	for (int i = 0; i < cache->count; i++) {
		const Entry *entry = &cache->entries[i];
		struct tm local;
		char used[32] = "?";

		if (localtime_r(&entry->used, &local))
			strftime(used, sizeof used, "%Y-%m-%d %H:%M", &local);
		printf("%s  %9lld bytes  used %s\n", entry->key, entry->bytes, used);
	}
	print_totals(cache, "", -1);
	return 0;
}

/* Removes what libtda would refuse, so that it is compiled anew. */
static int verify(const Cache *cache)
{
	int damaged = 0;

	for (int i = 0; i < cache->count; i++) {
		tda_kernel *kernel = NULL;

		if (tda_open_file(cache->entries[i].path, &kernel) != TDA_OK) {
			printf("damaged, removed: %s: %s\n", cache->entries[i].path, tda_error_message());
			unlink(cache->entries[i].path);
			damaged++;
		}
		tda_close(kernel);
	}
	print_totals(cache, "", damaged);
	return damaged > 0;
}

static bool remove_file(const char *path)
{
	if (unlink(path) == 0 || errno == ENOENT)
		return true;
	fprintf(stderr, "tdagen: cannot remove %s: %s\n", path, strerror(errno));
	return false;
}

static int clear(const Cache *cache)
{
	bool ok = true;

	for (int i = 0; i < cache->count; i++)
		ok = remove_file(cache->entries[i].path) && ok;
	for (int i = 0; i < cache->leftover_count; i++)
		ok = remove_file(cache->leftovers[i]) && ok;
	if (ok)
		print_totals(cache, " removed", -1);
	return !ok;
}

int cache_main(Arena *arena, int count, char **words)
{
	static const struct { const char *word; int (*run)(const Cache *cache); } doors[] = {
		{ "list", list }, { "verify", verify }, { "clear", clear },
	};
	Cache cache = { .folder = cache_folder(arena) };

	for (size_t i = 0; i < sizeof doors / sizeof *doors; i++) {
		if (count != 1 || strcmp(words[0], doors[i].word) != 0)
			continue;
		if (read_cache(arena, &cache))
			return doors[i].run(&cache);
		fprintf(stderr, "tdagen: cannot read the folder %s: %s\n", cache.folder, strerror(errno));
		return 1;
	}
	fputs("tdagen: usage: tdagen cache list|verify|clear\n", stderr);
	return 2;
}
