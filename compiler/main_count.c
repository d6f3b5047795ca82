#include <string.h>

#include "main_count.h"

bool count_compile(const Compilation *of, Counted counted, const char *program, tda_kernel **kernel)
{
	Compilation c = {
		.arena = of->arena, .path = of->path, .source = of->source, .length = of->length, .settings = of->settings,
		.setting_count = of->setting_count, .diag = diag_new(of->arena, of->path, of->source),
		.plan_options = { .target = TARGET_SM_80, .kind = PLAN_COUNT, .counted = counted },
	};
	bool ok = pipeline_run(&c, STAGE_PTX, NULL, NULL);

	/* Warnings were printed when the spec was compiled for what it is. */
	if (!ok)
		diag_print(c.diag, stderr);
	pipeline_end(&c);
	if (ok && tda_open_memory(c.ptx, strlen(c.ptx), kernel)) {
		fprintf(stderr, "%s: error: %s\n", program, tda_error_message());
		ok = false;
	}
	return ok;
}
