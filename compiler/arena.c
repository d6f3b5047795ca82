#include "arena.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_SIZE = 64 * 1024, ALIGNMENT = _Alignof(max_align_t) };

typedef struct Chunk Chunk;
struct Chunk {
	Chunk *next;
	size_t used, size;                 /* of data, in bytes */
	_Alignas(max_align_t) unsigned char data[];
};

typedef struct Cleanup Cleanup;
struct Cleanup {
	Cleanup *next;
	void (*run)(void *user);
	void *user;
};

struct Arena {
	Chunk *chunks;                     /* the first one is being filled */
	Cleanup *cleanups;                 /* in arena memory */
	size_t held, limit;                /* bytes of all chunks; 0: no limit */
	void (*exhausted)(void *user);
	void *exhausted_user;
};

Arena *arena_new(void)
{
	return calloc(1, sizeof(Arena));
}

void arena_free(Arena *arena)
{
	if (!arena)
		return;
	for (Cleanup *c = arena->cleanups; c; c = c->next)
		c->run(c->user);
	for (Chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
		next = chunk->next;
#ifdef TDAGEN_DEBUG
		memset(chunk->data, 0xCD, chunk->used);        /* so that a use after the end shows */
#endif
		free(chunk);
	}
	free(arena);
}

void arena_on_exhausted(Arena *arena, void (*handler)(void *user), void *user)
{
	arena->exhausted = handler;
	arena->exhausted_user = user;
}

void arena_limit(Arena *arena, size_t bytes)
{
	arena->limit = bytes > arena->held ? bytes : arena->held + 1;
}

void arena_on_free(Arena *arena, void (*cleanup)(void *user), void *user)
{
	Cleanup *c = ARENA_NEW(arena, Cleanup);
	c->run = cleanup;
	c->user = user;
	c->next = arena->cleanups;
	arena->cleanups = c;
}

/* The handler must not return; a program that gave none ends here, with the exit code of an internal failure. */
static _Noreturn void exhausted(Arena *arena)
{
	if (arena->exhausted)
		arena->exhausted(arena->exhausted_user);
	fputs("tdagen: out of memory\n", stderr);
	_Exit(3);
}

void *arena_alloc(Arena *arena, size_t size)
{
	if (size > SIZE_MAX / 2)
		exhausted(arena);
	size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	Chunk *chunk = arena->chunks;
	if (!chunk || chunk->size - chunk->used < size) {
		size_t data_size = size > CHUNK_SIZE ? size : CHUNK_SIZE;
		bool refused = arena->limit && data_size > arena->limit - arena->held;
		chunk = refused ? NULL : calloc(1, sizeof(Chunk) + data_size);
		if (!chunk)
			exhausted(arena);
		chunk->size = data_size;
		arena->held += data_size;
		chunk->next = arena->chunks;
		arena->chunks = chunk;
	}
	void *result = chunk->data + chunk->used;
	chunk->used += size;
	return result;
}

char *arena_strndup(Arena *arena, const char *text, size_t length)
{
	char *copy = arena_alloc(arena, length + 1);
	if (length)
		memcpy(copy, text, length);
	return copy;
}

char *arena_strdup(Arena *arena, const char *text)
{
	return arena_strndup(arena, text, strlen(text));
}

char *arena_vprintf(Arena *arena, const char *format, va_list args)
{
	va_list again;
	va_copy(again, args);
	int length = vsnprintf(NULL, 0, format, args);
	char *text = arena_alloc(arena, length < 0 ? 1 : (size_t)length + 1);
	if (length > 0)
		vsnprintf(text, (size_t)length + 1, format, again);
	va_end(again);
	return text;
}

char *arena_printf(Arena *arena, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	char *text = arena_vprintf(arena, format, args);
	va_end(args);
	return text;
}
