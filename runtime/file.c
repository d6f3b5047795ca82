/* getpid and rename's replacement of an existing file are POSIX. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "error.h"
#include "file.h"

tda_status file_read(const char *path, char **bytes, size_t *length)
{
	FILE *file = fopen(path, "rb");
	size_t capacity = 1 << 16, used = 0, got;
	char *buffer;

	*bytes = NULL;
	if (!file)
		return tda_fail(TDA_BAD_FILE, "can't be opened: %s", strerror(errno));
	buffer = malloc(capacity);
	errno = 0;
	while (buffer && (got = fread(buffer + used, 1, capacity - used - 1, file)) > 0) {
		char *larger;

		used += got;
		if (used < capacity - 1)
			continue;
		larger = capacity < SIZE_MAX / 2 ? realloc(buffer, capacity * 2) : NULL;
		if (!larger)
			free(buffer);
		buffer = larger;
		capacity *= 2;
	}
	if (!buffer) {
		fclose(file);
		return tda_fail_memory();
	}
	if (ferror(file)) {
		free(buffer);
		fclose(file);
		return tda_fail(TDA_BAD_FILE, "can't be read: %s", strerror(errno));
	}
	fclose(file);
	buffer[used] = 0;
	*bytes = buffer;
	*length = used;
	return TDA_OK;
}

tda_status file_write(const char *path, const void *const *parts, const size_t *lengths, int count)
{
	size_t size = strlen(path) + 32;
	char *temporary = malloc(size);
	bool ok = true;
	FILE *file;

	if (!temporary)
		return tda_fail_memory();
	snprintf(temporary, size, "%s.%ld.tmp", path, (long)getpid());
	file = fopen(temporary, "wb");
	for (int p = 0; p < count && file; p++)
		ok &= fwrite(parts[p], 1, lengths[p], file) == lengths[p];
	ok &= file && fclose(file) == 0 && rename(temporary, path) == 0;
	if (!ok) {
		tda_fail(TDA_BAD_FILE, "%s can't be written: %s", path, strerror(errno));
		remove(temporary);
	}
	free(temporary);
	return ok ? TDA_OK : TDA_BAD_FILE;
}
