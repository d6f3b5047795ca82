/* Half floats over all their values, .npy and .npz files written and read back, and damaged ones, which must not
 * crash. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include "../../runtime/file.h"
#include "../../runtime/half.h"
#include "../../runtime/npy.h"
#include "../../runtime/tda.h"
#include "fixture.h"

/* Every 16-bit value survives the way through float, and values between two round to the nearer, ties to even. */
static void test_halves(float to_float(uint16_t), uint16_t from_float(float), uint16_t infinity, tda_dtype dtype)
{
	int wrong = 0, wrong_between = 0;

	for (uint32_t bits = 0; bits < 65536; bits++) {
		float value = to_float((uint16_t)bits);
		bool nan = (bits & 0x7fff) > infinity;

		wrong += nan ? !isnan(value) || !isnan(to_float(from_float(value))) : from_float(value) != bits;
	}
	for (uint32_t bits = 0; bits < (uint32_t)infinity - 1; bits++) {
		double low = to_float((uint16_t)bits), high = to_float((uint16_t)(bits + 1)), middle = (low + high) / 2;
		uint16_t even = (uint16_t)(bits & 1 ? bits + 1 : bits);

		wrong_between += from_float((float)middle) != even;
		/* a hair beyond the tie, too little for a float to hold: rounding twice would get it wrong */
		wrong_between += dtype_round(dtype, middle + (high - low) * 1e-12) != high;
		wrong_between += dtype_round(dtype, middle - (high - low) * 1e-12) != low;
	}
	CHECK(wrong == 0, "%d of 65536 values change on the way", wrong);
	CHECK(wrong_between == 0, "%d values between two halves are rounded wrongly", wrong_between);
	CHECK(dtype_round(dtype, 1e300) == INFINITY && dtype_round(dtype, -1e300) == -INFINITY, "large doubles");
}

static char folder[] = "/tmp/tda_files_XXXXXX";

static char *path_of(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void test_npy(void)
{
	static const int64_t shapes[][4] = { { 2, 3, 4, 5 }, { 7 }, { 3, 0 }, { 1 } };
	static const int ranks[] = { 4, 1, 2, 0 };
	float values[120];

	for (int n = 0; n < 120; n++)
		values[n] = (float)n / 3;
	for (int c = 0; c < 4; c++) {
		NpyArray a;
		char *bytes;
		size_t length;

		CHECK(npy_write(path_of("a.npy"), ranks[c], shapes[c], values) == TDA_OK, "%s", tda_error_message());
		if (!CHECK(file_read(path_of("a.npy"), &bytes, &length) == TDA_OK, "%s", tda_error_message()))
			continue;
		if (CHECK(npy_parse(bytes, length, &a) == TDA_OK, "%s", tda_error_message())) {
			CHECK(a.rank == ranks[c] && memcmp(a.shape, shapes[c], sizeof(int64_t) * (size_t)a.rank) == 0, "shape %d", c);
			for (int64_t n = 0; n < a.count; n++)
				CHECK(a.values[n] == values[n], "value %d is %g", (int)n, a.values[n]);
			free(a.values);
		}
		free(bytes);
	}
}

static const struct { const char *header, *message; } bad_headers[] = {
	{ "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }",
	  "the array's type is not little-endian float16, float32 or float64: convert it with numpy's astype" },
	{ "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
	  "the array's type is not little-endian float16, float32 or float64: convert it with numpy's astype" },
	{ "{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }",
	  "the array is in Fortran order: convert it with numpy.ascontiguousarray" },
	{ "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
	  "the file's length does not match the shape in its header: it is truncated or damaged" },
	{ "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 2), }", "the array has more than 4 dimensions" },
	{ "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "the .npy header has a malformed shape" },
	{ "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }", "the array is too large" },
	{ "{'descr': '<f4', 'fortran_order': False, }", "the .npy header has no shape" },
};

static size_t make_npy(const char *header, char *bytes)
{
	size_t length = strlen(header);

	memcpy(bytes, "\x93NUMPY\1\0", 8);
	bytes[8] = (char)length;
	bytes[9] = 0;
	memcpy(bytes + 10, header, length);
	memset(bytes + 10 + length, 1, 8);
	return 10 + length + 8;
}

static void test_bad_npy(void)
{
	char bytes[256];
	NpyArray a;

	for (size_t n = 0; n < sizeof(bad_headers) / sizeof(bad_headers[0]); n++) {
		size_t length = make_npy(bad_headers[n].header, bytes);

		CHECK(npy_parse(bytes, length, &a) == TDA_BAD_FILE && !a.values, "accepted: %s", bad_headers[n].header);
		CHECK_MESSAGE(bad_headers[n].message);
	}
	CHECK(npy_parse("hello", 5, &a) == TDA_BAD_FILE, "text");
	CHECK_MESSAGE("this is not a .npy array");
}

/* ---- archives ---- */

static void put(unsigned char **at, uint32_t value, int bytes)
{
	for (int n = 0; n < bytes; n++)
		*(*at)++ = (unsigned char)(value >> 8 * n);
}

/* A zip with one member; returns its length. */
static size_t make_zip(unsigned char *zip, const char *name, const unsigned char *data, size_t size, bool deflated)
{
	unsigned char packed[1024], *at = zip, *directory;
	size_t packed_size = size, name_length = strlen(name);
	uint32_t crc = (uint32_t)crc32(0, data, (uInt)size);

	memcpy(packed, data, size);
	if (deflated) {
		z_stream stream = { .next_in = (unsigned char *)data, .avail_in = (uInt)size, .next_out = packed,
		                    .avail_out = sizeof(packed) };
		deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
		deflate(&stream, Z_FINISH);
		packed_size = stream.total_out;
		deflateEnd(&stream);
	}
	put(&at, 0x04034b50, 4);
	put(&at, 20, 2), put(&at, 0, 2), put(&at, deflated ? 8 : 0, 2), put(&at, 0, 4), put(&at, crc, 4);
	put(&at, (uint32_t)packed_size, 4), put(&at, (uint32_t)size, 4), put(&at, (uint32_t)name_length, 2), put(&at, 0, 2);
	memcpy(at, name, name_length);
	at += name_length;
	memcpy(at, packed, packed_size);
	at += packed_size;
	directory = at;
	put(&at, 0x02014b50, 4);
	put(&at, 20, 2), put(&at, 20, 2), put(&at, 0, 2), put(&at, deflated ? 8 : 0, 2), put(&at, 0, 4), put(&at, crc, 4);
	put(&at, (uint32_t)packed_size, 4), put(&at, (uint32_t)size, 4), put(&at, (uint32_t)name_length, 2);
	put(&at, 0, 2), put(&at, 0, 2), put(&at, 0, 2), put(&at, 0, 2), put(&at, 0, 4), put(&at, 0, 4);
	memcpy(at, name, name_length);
	at += name_length;
	put(&at, 0x06054b50, 4);
	put(&at, 0, 4), put(&at, 1, 2), put(&at, 1, 2), put(&at, (uint32_t)(at - directory), 4);
	put(&at, (uint32_t)(directory - zip), 4), put(&at, 0, 2);
	return (size_t)(at - zip);
}

static tda_status read_zip(const unsigned char *zip, size_t length, NpyArray *a)
{
	NpySet *set;
	tda_status status;

	memset(a, 0, sizeof(*a));
	file_write(path_of("a.npz"), (const void *[]){ zip }, (size_t[]){ length }, 1);
	status = npy_set_open(path_of("a.npz"), &set);
	if (!status)
		status = npy_set_read(set, 0, a);
	npy_set_close(set);
	return status;
}

static void test_npz(void)
{
	char npy[256];
	unsigned char zip[2048], bad[2048];
	size_t size = make_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", npy);
	uint64_t seed = 9;
	NpyArray a;
	int accepted = 0;

	for (int deflated = 0; deflated < 2; deflated++) {
		size_t length = make_zip(zip, "q1.npy", (unsigned char *)npy, size, deflated);

		CHECK(read_zip(zip, length, &a) == TDA_OK && a.count == 2, "%s", tda_error_message());
		free(a.values);
		for (int n = 0; n < 1500; n++) {
			size_t cut = fixture_random(&seed) % 4 ? length : fixture_random(&seed) % length;

			memcpy(bad, zip, length);
			for (int c = 1 + (int)(fixture_random(&seed) % 3); c > 0; c--)
				bad[fixture_random(&seed) % length] = (unsigned char)fixture_random(&seed);
			accepted += read_zip(bad, cut, &a) == TDA_OK;
			free(a.values);
		}
	}
	CHECK(accepted < 1500, "%d of 3000 damaged archives were read", accepted);
	zip[make_zip(zip, "readme.txt", (unsigned char *)npy, size, false)] = 0;
	CHECK(read_zip(zip, make_zip(zip, "readme.txt", (unsigned char *)npy, size, false), &a) == TDA_BAD_FILE, "no array");
}

static void test_npy_mutations(void)
{
	char npy[256], bad[256];
	size_t length = make_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", npy);
	uint64_t seed = 11;
	int accepted = 0;

	for (int n = 0; n < 100000; n++) {
		size_t cut = fixture_random(&seed) % 4 ? length : fixture_random(&seed) % length;
		char *exact;
		NpyArray a;

		memcpy(bad, npy, length);
		for (int c = 1 + (int)(fixture_random(&seed) % 4); c > 0; c--)
			bad[fixture_random(&seed) % length] = (char)fixture_random(&seed);
		exact = malloc(cut + 1);       /* so that a sanitizer sees a read beyond the end */
		memcpy(exact, bad, cut);
		accepted += npy_parse(exact, cut, &a) == TDA_OK;
		free(a.values);
		free(exact);
	}
	CHECK(accepted < 60000, "%d of 100000 damaged arrays were read", accepted);
}

/* ---- .safetensors ---- */

static size_t make_safetensors(const char *header, const void *data, size_t size, char *bytes)
{
	size_t length = strlen(header);

	for (int n = 0; n < 8; n++)
		bytes[n] = (char)(n < 4 ? length >> 8 * n : 0);
	memcpy(bytes + 8, header, length);
	memcpy(bytes + 8 + length, data, size);
	return 8 + length + size;
}

/* Reads tensor `index` of a file of these bytes; *name is its name. */
static tda_status read_safetensors(const char *bytes, size_t length, int index, char *name, NpyArray *a)
{
	NpySet *set = NULL;
	tda_status status;

	*a = (NpyArray){0};
	file_write(path_of("a.safetensors"), (const void *[]){ bytes }, (size_t[]){ length }, 1);
	status = npy_set_open(path_of("a.safetensors"), &set);
	if (!status)
		strcpy(name, npy_set_name(set, index));
	if (!status)
		status = npy_set_read(set, index, a);
	npy_set_close(set);
	return status;
}

static void test_safetensors(void)
{
	static const char *const headers[] = {
		"{\"__metadata__\":{\"a\\\"}\":\"{\"},\"k1\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]},"
		"\"q1\" : {\"data_offsets\": [4, 8], \"dtype\":\"BF16\", \"shape\":[2]}}   ",
		"{\"k1\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[8,16]},\"q1\":{\"dtype\":\"F32\",\"shape\":[2],"
		"\"data_offsets\":[0,8]}}",
	};
	static const unsigned char halves[] = { 0, 0x3c, 0, 0xc0, 0x80, 0x3f, 0, 0xc0 };   /* 1, -2 twice */
	struct { float singles[2]; double one; } wide = { { 1, -2 }, -0.5 };
	char bytes[512], name[128];
	NpyArray a;

	for (int tensor = 0; tensor < 2; tensor++) {
		size_t length = make_safetensors(headers[0], halves, sizeof(halves), bytes);

		if (CHECK(read_safetensors(bytes, length, tensor, name, &a) == TDA_OK, "%s", tda_error_message()))
			CHECK(a.count == 2 && a.values[0] == 1 && a.values[1] == -2 && a.rank == 2 - tensor &&
			      strcmp(name, tensor ? "q1" : "k1") == 0, "tensor %d: %s", tensor, name);
		free(a.values);
		length = make_safetensors(headers[1], &wide, sizeof(wide), bytes);
		if (CHECK(read_safetensors(bytes, length, tensor, name, &a) == TDA_OK, "%s", tda_error_message()))
			CHECK(a.values[0] == (tensor ? 1 : -0.5) && a.count == 1 + tensor, "tensor %d: %g", tensor, a.values[0]);
		free(a.values);
	}
}

static void test_bad_safetensors(void)
{
	static const struct { const char *header, *message; } bad[] = {
		{ "", "the header of the .safetensors file is malformed" },
		{ "{}", "there is no tensor in it" },
		{ "{\"q1\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
		  "q1: elements of type I8: they must be F16, BF16, F32 or F64" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,12]}}",
		  "the file is truncated: q1 ends behind it" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", "q1: its bytes do not match its shape" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
		  "the file is truncated: q1 ends behind it" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
		  "the header of the .safetensors file is malformed" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}",
		  "the header of the .safetensors file is malformed" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "the header of the .safetensors file is malformed" },
		{ "{\"q1\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", "the header of the .safetensors file is malformed" },
	};
	char bytes[512], name[128], expected[512];
	NpyArray a;

	for (size_t n = 0; n < sizeof(bad) / sizeof(bad[0]); n++) {
		size_t length = make_safetensors(bad[n].header, "12345678", 8, bytes);

		CHECK(read_safetensors(bytes, length, 0, name, &a) == TDA_BAD_FILE && !a.values, "accepted: %s", bad[n].header);
		snprintf(expected, sizeof(expected), "%s: %s", path_of("a.safetensors"), bad[n].message);
		CHECK_MESSAGE(expected);
	}
}

/* Any byte changed, and any length cut: an error or an array, and never more than the file holds. */
static void test_safetensors_mutations(void)
{
	static const char header[] = "{\"q1\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]}}";
	char good[256], bad[256], name[128];
	size_t length = make_safetensors(header, "12345678", 8, good);
	int accepted = 0, refused = 0;
	uint64_t seed = 5;
	NpyArray a;

	for (int n = 0; n < 1500; n++) {
		size_t cut = n < (int)length ? (size_t)n : length;

		memcpy(bad, good, length);
		if (cut == length)
			for (int change = 0; change < 1 + n % 3; change++)
				bad[fixture_random(&seed) % length] = (char)fixture_random(&seed);
		if (read_safetensors(bad, cut, 0, name, &a) == TDA_OK)
			accepted++;
		else
			refused++;
		free(a.values);
	}
	CHECK(accepted > 30 && refused > 500, "%d accepted, %d refused", accepted, refused);
}

int main(void)
{
	if (!mkdtemp(folder))
		return 1;
	test_halves(f16_to_float, f16_from_float, 0x7c00, TDA_F16);
	test_halves(bf16_to_float, bf16_from_float, 0x7f80, TDA_BF16);
	test_npy();
	test_bad_npy();
	test_npz();
	test_npy_mutations();
	test_safetensors();
	test_bad_safetensors();
	test_safetensors_mutations();
	remove(path_of("a.safetensors"));
	remove(path_of("a.npy"));
	remove(path_of("a.npz"));
	rmdir(folder);
	return fixture_result();
}
