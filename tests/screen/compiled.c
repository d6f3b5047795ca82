#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../runtime/fixture.h"
#include "compiled.h"

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
