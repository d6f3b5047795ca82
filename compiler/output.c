#include "output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const Loc nowhere = { 0, 0 };

/* A new file or an ordinary one is replaced by renaming; a device or a pipe is written as it is. */
static bool is_replaceable(const char *path)
{
	struct stat status;

	return stat(path, &status) != 0 || S_ISREG(status.st_mode);
}

static FILE *open_temporary(char *name)
{
	mode_t mask = umask(0);
	int descriptor = mkstemp(name);

	umask(mask);
	if (descriptor < 0)
		return NULL;
	fchmod(descriptor, 0666 & ~mask);      /* mkstemp makes files that only their owner reads */
	return fdopen(descriptor, "wb");
}

bool output_open(Arena *arena, Diag *diag, const char *path, Output *output)
{
	*output = (Output){ .path = path };
	if (strcmp(path, "-") == 0) {
		output->file = stdout;
		return true;
	}
	if (is_replaceable(path)) {
		char *target = realpath(path, NULL);   /* through a symbolic link, to the file itself */

		output->path = target ? arena_strdup(arena, target) : path;
		free(target);
		output->temporary = arena_printf(arena, "%s.XXXXXX", output->path);
		output->file = open_temporary(output->temporary);
	} else {
		output->file = fopen(path, "wb");
	}
	if (output->file)
		return true;
	diag_error(diag, nowhere, "cannot write %s: %s", path, strerror(errno));
	return false;
}

bool output_commit(Diag *diag, Output *output)
{
	bool ok = fflush(output->file) == 0 && !ferror(output->file);
	int error = errno;

	if (output->file != stdout && fclose(output->file) != 0 && ok) {
		ok = false;
		error = errno;
	}
	output->file = NULL;
	if (ok && output->temporary && rename(output->temporary, output->path) != 0) {
		ok = false;
		error = errno;
	}
	if (!ok) {
		diag_error(diag, nowhere, "cannot write %s: %s", output->path, strerror(error));
		output_discard(output);
	}
	return ok;
}

void output_discard(Output *output)
{
	if (output->file && output->file != stdout)
		fclose(output->file);
	if (output->temporary)
		unlink(output->temporary);
	*output = (Output){ .path = output->path };
}
