/* SHA-256 (FIPS 180-4), for spec hashes and the manifest's seal. */
#ifndef TDAGEN_SHA256_H
#define TDAGEN_SHA256_H

#include <stddef.h>

/* 64 lower-case hex digits and a NUL. */
void sha256_hex(const void *data, size_t size, char hex[65]);

#endif
