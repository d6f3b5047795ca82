#include "main_report.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "output.h"

extern char **environ;

static const Loc nowhere = { 0, 0 };

static const char *python(void)
{
	const char *named = getenv("TDAGEN_PYTHON");

	return named && *named ? named : "python3";
}

/* Runs the script; the files are its standard input and output (-1: ours). It says on standard error why it failed. */
static bool run_script(Diag *diag, const char *option, int in, int out)
{
	char *const argv[] = { (char *)python(), "-c", (char *)report_script, (char *)option, NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status = 0;

	posix_spawn_file_actions_init(&actions);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	if (out >= 0)
		posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	int error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);

	posix_spawn_file_actions_destroy(&actions);
	if (error) {
		diag_error(diag, nowhere, "--report: cannot run %s: %s", argv[0], strerror(error));
		diag_note(diag, nowhere, "the report is drawn with Python: install Python 3 with plotly, or name it in TDAGEN_PYTHON");
		return false;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	diag_error(diag, nowhere, "--report: %s could not draw the report; it says why above", argv[0]);
	return false;
}

bool report_check(Diag *diag)
{
	return run_script(diag, "--check", -1, -1);
}

bool report_write(Arena *arena, Diag *diag, const char *path, void (*write)(const void *user, FILE *out), const void *user)
{
	FILE *json = tmpfile();
	Output output;

	if (!json) {
		diag_error(diag, nowhere, "--report: cannot make a temporary file: %s", strerror(errno));
		return false;
	}
	write(user, json);
	bool ok = fflush(json) == 0 && !ferror(json);

	if (!ok)
		diag_error(diag, nowhere, "--report: cannot write a temporary file: %s", strerror(errno));
	rewind(json);
	if (ok && (ok = output_open(arena, diag, path, &output))) {
		ok = run_script(diag, NULL, fileno(json), fileno(output.file));
		if (ok)
			ok = output_commit(diag, &output);
		else
			output_discard(&output);
	}
	fclose(json);
	return ok;
}
