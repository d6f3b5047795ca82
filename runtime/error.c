#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "error.h"

enum { MESSAGE_BYTES = 2048 };         /* longer ones are cut: a simulator's report is the longest */

static _Thread_local char message[MESSAGE_BYTES];

tda_status tda_fail(tda_status status, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(message, sizeof(message), format, list);
	va_end(list);
	return status;
}

tda_status tda_fail_memory(void)
{
	return tda_fail(TDA_OUT_OF_MEMORY, "out of host memory");
}

tda_status tda_fail_within(tda_status status, const char *format, ...)
{
	char rest[MESSAGE_BYTES];
	size_t used;
	va_list list;

	memcpy(rest, message, sizeof(rest));
	va_start(list, format);
	vsnprintf(message, sizeof(message), format, list);
	va_end(list);
	used = strlen(message);
	snprintf(message + used, sizeof(message) - used, "%s", rest);
	return status;
}

const char *tda_error_message(void)
{
	return message[0] ? message : "no error";
}

const char *tda_status_name(tda_status status)
{
	static const char *const names[] = {
		[TDA_OK] = "ok", [TDA_BAD_ARGUMENT] = "bad argument", [TDA_BAD_FILE] = "bad file",
		[TDA_NO_DRIVER] = "no driver", [TDA_NO_DEVICE] = "no device", [TDA_WRONG_DEVICE] = "wrong device",
		[TDA_OUT_OF_MEMORY] = "out of memory", [TDA_CUDA_ERROR] = "CUDA error",
		[TDA_UNSUPPORTED] = "unsupported", [TDA_INTERNAL] = "internal error",
	};

	return (unsigned)status < sizeof(names) / sizeof(names[0]) ? names[status] : "unknown status";
}
