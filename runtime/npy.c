#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "file.h"
#include "half.h"
#include "npy.h"

static const char magic[] = "\x93NUMPY";
enum { MAGIC_BYTES = 6, PREAMBLE_BYTES = 10 };

typedef struct Header {
	const char *text;
	size_t length;
	size_t data;                   /* offset of the first element */
} Header;

static tda_status find_header(const unsigned char *bytes, size_t length, Header *header)
{
	size_t size, at;

	if (length < PREAMBLE_BYTES + 2 || memcmp(bytes, magic, MAGIC_BYTES) != 0)
		return tda_fail(TDA_BAD_FILE, "this is not a .npy array");
	if (bytes[6] < 1 || bytes[6] > 3)
		return tda_fail(TDA_BAD_FILE, ".npy version %d is not known", bytes[6]);
	size = (size_t)bytes[8] | (size_t)bytes[9] << 8;
	at = PREAMBLE_BYTES;
	if (bytes[6] > 1) {
		size |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
		at += 2;
	}
	if (size > length - at)
		return tda_fail(TDA_BAD_FILE, "the file is truncated");
	*header = (Header){ (const char *)bytes + at, size, at + size };
	return TDA_OK;
}

/* The text after 'key': in the header's Python dictionary; NULL where it is missing. */
static const char *find_key(const Header *header, const char *key)
{
	size_t key_length = strlen(key);

	for (size_t at = 0; at + key_length + 2 < header->length; at++) {
		const char *text = header->text + at;
		char quote = text[0];

		if ((quote != '\'' && quote != '"') || memcmp(text + 1, key, key_length) != 0 || text[key_length + 1] != quote)
			continue;
		for (at += key_length + 2; at < header->length && (header->text[at] == ' ' || header->text[at] == ':'); at++)
			;
		return header->text + at;
	}
	return NULL;
}

static bool starts_with(const Header *header, const char *at, const char *word)
{
	size_t left = at ? (size_t)(header->text + header->length - at) : 0;

	return left >= strlen(word) && memcmp(at, word, strlen(word)) == 0;
}

/* "(4, 4096, 64)", "(3,)", "()". */
static tda_status parse_shape(const Header *header, NpyArray *array)
{
	const char *at = find_key(header, "shape"), *end = header->text + header->length;

	array->rank = 0;
	array->count = 1;
	if (!starts_with(header, at, "("))
		return tda_fail(TDA_BAD_FILE, "the .npy header has no shape");
	for (at++; at < end && *at != ')';) {
		int64_t size = 0;

		if (*at == ' ' || *at == ',') {
			at++;
			continue;
		}
		if (*at < '0' || *at > '9')
			return tda_fail(TDA_BAD_FILE, "the .npy header has a malformed shape");
		if (array->rank == NPY_MAX_RANK)
			return tda_fail(TDA_BAD_FILE, "the array has more than %d dimensions", NPY_MAX_RANK);
		for (; at < end && *at >= '0' && *at <= '9'; at++)
			if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, *at - '0', &size))
				return tda_fail(TDA_BAD_FILE, "the .npy header has a malformed shape");
		array->shape[array->rank++] = size;
		if (__builtin_mul_overflow(array->count, size, &array->count))
			return tda_fail(TDA_BAD_FILE, "the array is too large");
	}
	return at < end ? TDA_OK : tda_fail(TDA_BAD_FILE, "the .npy header has a malformed shape");
}

static double load_element(int size, const unsigned char *at)
{
	uint16_t half;
	float single;
	double value;

	switch (size) {
	case 2:
		memcpy(&half, at, sizeof(half));
		return f16_to_float(half);
	case 4:
		memcpy(&single, at, sizeof(single));
		return single;
	default:
		memcpy(&value, at, sizeof(value));
		return value;
	}
}

tda_status npy_parse(const void *bytes, size_t length, NpyArray *array)
{
	static const struct { const char *descr; int size; } types[] = { { "'<f2'", 2 }, { "'<f4'", 4 }, { "'<f8'", 8 } };
	const char *descr;
	Header header = { NULL, 0, 0 };
	int size = 0;
	tda_status status;

	memset(array, 0, sizeof(*array));
	if ((status = find_header(bytes, length, &header)) || (status = parse_shape(&header, array)))
		return status;
	descr = find_key(&header, "descr");
	for (int t = 0; t < 3; t++)
		if (starts_with(&header, descr, types[t].descr))
			size = types[t].size;
	if (!size)
		return tda_fail(TDA_BAD_FILE, "the array's type is not little-endian float16, float32 or float64: convert it with "
		                "numpy's astype");
	if (!starts_with(&header, find_key(&header, "fortran_order"), "False"))
		return tda_fail(TDA_BAD_FILE, "the array is in Fortran order: convert it with numpy.ascontiguousarray");
	if (array->count > (int64_t)(SIZE_MAX / 16) || (size_t)array->count * (size_t)size != length - header.data)
		return tda_fail(TDA_BAD_FILE, "the file's length does not match the shape in its header: it is truncated or damaged");
	array->values = malloc(sizeof(double) * (size_t)(array->count ? array->count : 1));
	if (!array->values)
		return tda_fail_memory();
	for (int64_t n = 0; n < array->count; n++)
		array->values[n] = load_element(size, (const unsigned char *)bytes + header.data + n * size);
	return TDA_OK;
}

tda_status npy_write(const char *path, int rank, const int64_t *shape, const float *values)
{
	enum { HEADER_BYTES = 128 };   /* preamble and dictionary, padded with blanks as NumPy does */
	char header[HEADER_BYTES + 1], dims[96] = "";
	int64_t count = 1;
	int used;

	for (int d = 0; d < rank; d++) {
		size_t at = strlen(dims);
		snprintf(dims + at, sizeof(dims) - at, "%lld%s", (long long)shape[d], rank == 1 ? "," : d + 1 < rank ? ", " : "");
		count *= shape[d];
	}
	memcpy(header, magic, MAGIC_BYTES);
	memcpy(header + MAGIC_BYTES, "\1\0", 2);
	header[8] = HEADER_BYTES - PREAMBLE_BYTES;
	header[9] = 0;
	used = PREAMBLE_BYTES + snprintf(header + PREAMBLE_BYTES, sizeof(header) - PREAMBLE_BYTES,
	                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", dims);
	memset(header + used, ' ', (size_t)(HEADER_BYTES - used));
	header[HEADER_BYTES - 1] = '\n';
	return file_write(path, (const void *[]){ header, values },
	                  (size_t[]){ HEADER_BYTES, sizeof(float) * (size_t)count }, 2);
}
