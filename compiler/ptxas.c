/* Runs NVIDIA's assembler where it is installed: cubins for --emit=cubin, and what each kernel uses. */
#include "lower.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const Loc nowhere = { 0, 0 };

char *ptxas_find(Arena *arena)
{
	static const char *const roots[] = { "CUDA_HOME", "CUDA_PATH" };
	const char *path = getenv("PATH");

	for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
		const char *root = getenv(roots[i]);

		if (root && *root) {
			char *candidate = arena_printf(arena, "%s/bin/ptxas", root);

			if (access(candidate, X_OK) == 0)
				return candidate;
		}
	}
	while (path && *path) {
		size_t length = strcspn(path, ":");
		char *candidate = arena_printf(arena, "%.*s/ptxas", (int)length, path);

		if (length > 0 && access(candidate, X_OK) == 0)
			return candidate;
		path += length + (path[length] == ':');
	}
	return access("/usr/local/cuda/bin/ptxas", X_OK) == 0 ? arena_strdup(arena, "/usr/local/cuda/bin/ptxas") : NULL;
}

/* The whole file, NUL-terminated, in the arena; NULL when it cannot be read. */
static char *read_whole(Arena *arena, const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	char *data = NULL;
	long end;

	if (!file)
		return NULL;
	if (fseek(file, 0, SEEK_END) == 0 && (end = ftell(file)) >= 0) {
		rewind(file);
		data = arena_alloc(arena, (size_t)end + 1);
		*size = fread(data, 1, (size_t)end, file);
		data[*size] = '\0';
		if (*size != (size_t)end)
			data = NULL;
	}
	fclose(file);
	return data;
}

static bool write_whole(const char *path, const char *text)
{
	FILE *file = fopen(path, "wb");
	bool ok = file && fputs(text, file) >= 0;

	return file && fclose(file) == 0 && ok;
}

/* Runs argv with its output and errors in the file `log`. Returns its exit status, or -1 with errno set. */
static int run_logged(char *const argv[], const char *log)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
	int error = posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);

	posix_spawn_file_actions_destroy(&actions);
	if (error) {
		errno = error;
		return -1;
	}
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ptxas -v prints for each kernel, a line each:
 *   ptxas info    : Compiling entry function 'NAME' for 'sm_80'
 *       N bytes stack frame, N bytes spill stores, N bytes spill loads
 *   ptxas info    : Used N registers, used N barriers, N bytes smem, ... */
static void parse_usage(Arena *arena, const char *log, KernelUsage **usage, int *count)
{
	static const char entry_mark[] = "Compiling entry function '";
	int capacity = 0;

	for (const char *at = log; (at = strstr(at, entry_mark)); at++)
		capacity++;
	*usage = ARENA_ARRAY(arena, KernelUsage, capacity + 1);
	*count = 0;
	for (const char *line = log; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		char *text = arena_strndup(arena, line, strcspn(line, "\n"));
		KernelUsage *kernel = &(*usage)[*count > 0 ? *count - 1 : 0];
		const char *at;

		if ((at = strstr(text, entry_mark))) {
			at += sizeof entry_mark - 1;
			(*usage)[(*count)++].entry = arena_strndup(arena, at, strcspn(at, "'"));
		} else if ((at = strstr(text, " bytes stack frame"))) {
			sscanf(text, " %d bytes stack frame, %d bytes spill stores, %d bytes spill loads",
				&kernel->stack_bytes, &kernel->spill_store_bytes, &kernel->spill_load_bytes);
		} else if ((at = strstr(text, "Used "))) {
			sscanf(at, "Used %d registers", &kernel->registers);
			for (const char *item = at; item; item = strchr(item, ',')) {
				int bytes;
				char unit[8] = "";

				item += *item == ',';
				if (sscanf(item, " %d bytes %7[a-z]", &bytes, unit) == 2 && strcmp(unit, "smem") == 0)
					kernel->static_shared_bytes = bytes;
			}
		}
	}
}

typedef struct TempFiles {
	char *folder, *ptx, *cubin, *log;
} TempFiles;

static bool temp_files_make(Arena *arena, Diag *diag, TempFiles *files)
{
	const char *parent = getenv("TMPDIR");

	files->folder = arena_printf(arena, "%s/tdagen-XXXXXX", parent && *parent ? parent : "/tmp");
	if (!mkdtemp(files->folder)) {
		diag_internal(diag, nowhere, "cannot make a temporary folder %s: %s", files->folder, strerror(errno));
		return false;
	}
	files->ptx = arena_printf(arena, "%s/kernels.ptx", files->folder);
	files->cubin = arena_printf(arena, "%s/kernels.cubin", files->folder);
	files->log = arena_printf(arena, "%s/log", files->folder);
	return true;
}

static void temp_files_remove(const TempFiles *files)
{
	unlink(files->ptx);
	unlink(files->cubin);
	unlink(files->log);
	rmdir(files->folder);
}

static bool assemble(Arena *arena, Diag *diag, const TempFiles *files, char *ptxas, const char *chip, char **log)
{
	char *argv[] = { ptxas, "-v", arena_printf(arena, "-arch=%s", chip), "-o", files->cubin, files->ptx, NULL };
	int status = run_logged(argv, files->log);
	size_t size = 0;

	*log = read_whole(arena, files->log, &size);
	if (status == 0 && *log)
		return true;
	if (status < 0 || !*log)
		diag_internal(diag, nowhere, "cannot run %s: %s", ptxas, strerror(errno));
	else
		diag_internal(diag, nowhere, "ptxas refused the PTX for %s (exit status %d): %s", chip, status, *log);
	return false;
}

bool ptxas_run(Arena *arena, Diag *diag, const char *ptx, const char *chip, unsigned char **cubin, size_t *cubin_size,
               KernelUsage **usage, int *usage_count)
{
	char *ptxas = ptxas_find(arena);
	TempFiles files;
	char *log = NULL;
	bool ok = false;

	if (!ptxas) {
		diag_error(diag, nowhere, "ptxas was not found");
		diag_note(diag, nowhere, "put it into PATH, or set CUDA_HOME to the folder of the CUDA toolkit");
		return false;
	}
	if (!temp_files_make(arena, diag, &files))
		return false;
	if (!write_whole(files.ptx, ptx)) {
		diag_internal(diag, nowhere, "cannot write %s: %s", files.ptx, strerror(errno));
	} else if (assemble(arena, diag, &files, ptxas, chip, &log)) {
		parse_usage(arena, log, usage, usage_count);
		ok = true;
		if (cubin) {
			*cubin = (unsigned char *)read_whole(arena, files.cubin, cubin_size);
			ok = *cubin != NULL;
			if (!ok)
				diag_internal(diag, nowhere, "cannot read the cubin that ptxas wrote: %s", strerror(errno));
		}
	}
	temp_files_remove(&files);
	return ok;
}
