#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../runtime/fixture.h"
#include "compiled.h"

typedef struct Compiled {
	char *options;
	tda_kernel *kernel;
} Compiled;

static Compiled *kept;
static size_t kept_count;

char *compiled_text(const char *tdagen, const char *spec, const char *options)
{
	const size_t size = 1 << 24;
	char command[1024], *text = malloc(size);
	size_t length;
	FILE *pipe;

	snprintf(command, sizeof(command), "'%s' '%s' %s -o -", tdagen, spec, options);
	pipe = popen(command, "r");
	length = pipe && text ? fread(text, 1, size, pipe) : 0;
	if (CHECK(pipe && pclose(pipe) == 0 && length < size, "%s failed", command)) {
		text[length] = 0;
		return text;
	}
	free(text);
	return NULL;
}

tda_kernel *compiled_kernel(const char *tdagen, const char *spec, const char *options)
{
	char *text = compiled_text(tdagen, spec, options);
	tda_kernel *kernel = NULL;

	if (text)
		CHECK(tda_open_memory(text, strlen(text), &kernel) == TDA_OK, "%s", tda_error_message());
	free(text);
	return kernel;
}

tda_kernel *compiled_once(const char *tdagen, const char *spec, const char *options)
{
	Compiled *grown;
	tda_kernel *kernel;

	for (size_t n = 0; n < kept_count; n++)
		if (strcmp(kept[n].options, options) == 0)
			return kept[n].kernel;
	kernel = compiled_kernel(tdagen, spec, options);
	grown = realloc(kept, (kept_count + 1) * sizeof(*kept));
	if (!CHECK(grown != NULL, "out of memory"))
		return NULL;
	kept = grown;
	kept[kept_count].options = strdup(options);
	kept[kept_count++].kernel = kernel;
	return kernel;
}

void compiled_close(void)
{
	for (size_t n = 0; n < kept_count; n++) {
		tda_close(kept[n].kernel);
		free(kept[n].options);
	}
	free(kept);
	kept = NULL;
	kept_count = 0;
}
