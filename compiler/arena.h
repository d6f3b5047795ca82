/* Bump allocation with one lifetime: everything a compilation makes is freed at once. */
#ifndef TDAGEN_ARENA_H
#define TDAGEN_ARENA_H

#include <stdarg.h>
#include <stddef.h>

typedef struct Arena Arena;

Arena *arena_new(void);            /* NULL when out of memory */
void arena_free(Arena *arena);     /* NULL is allowed */

/* Zeroed memory, aligned for any object. Running out of memory ends the compilation through the handler
 * given to arena_on_exhausted (a longjmp or an exit of the tool), so callers never see NULL. */
void *arena_alloc(Arena *arena, size_t size);
char *arena_strdup(Arena *arena, const char *text);
char *arena_strndup(Arena *arena, const char *text, size_t length);
char *arena_printf(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *arena_vprintf(Arena *arena, const char *format, va_list args);
void arena_on_exhausted(Arena *arena, void (*handler)(void *user), void *user);
/* Counts as out of memory once more than `bytes` are held. Without it only the machine is the limit. */
void arena_limit(Arena *arena, size_t bytes);
/* Runs cleanup(user) in arena_free, last registered first: for what a longjmp out of arena_alloc would leak. */
void arena_on_free(Arena *arena, void (*cleanup)(void *user), void *user);

#define ARENA_NEW(arena, type) ((type *)arena_alloc((arena), sizeof(type)))
#define ARENA_ARRAY(arena, type, count) ((type *)arena_alloc((arena), sizeof(type) * (size_t)(count)))

#endif
