/* The HTML report of tdagen explore: drawn by tools/explore_report.py, which is built in, with the Python of this machine. For
 * main_explore.c alone. */
#ifndef TDAGEN_MAIN_REPORT_H
#define TDAGEN_MAIN_REPORT_H

#include <stdbool.h>
#include <stdio.h>
#include "arena.h"
#include "diag.h"

extern const char report_script[];     /* NUL-terminated */

/* Can reports be drawn here? False after a diagnostic that says what to install. */
bool report_check(Diag *diag);
/* Writes the page for what `write` prints as JSON to path. False after a diagnostic. */
bool report_write(Arena *arena, Diag *diag, const char *path, void (*write)(const void *user, FILE *out), const void *user);

#endif
