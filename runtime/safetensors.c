/*
 * A .safetensors file: 8 bytes that say how long the header is, the header, a JSON object, and the data.
 *     {"__metadata__": {...}, "q1": {"dtype": "F16", "shape": [4, 64, 8], "data_offsets": [0, 4096]}, ...}
 * Files are not trusted: every length is checked against the file. Only so much JSON is read as such headers hold: names
 * with escapes are refused, and so are keys that the format does not have.
 */
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "half.h"
#include "npy_set.h"

enum { LENGTH_BYTES = 8 };

static const struct { const char *name; int size; } dtypes[] = { { "F16", 2 }, { "BF16", 2 }, { "F32", 4 }, { "F64", 8 } };
enum { DTYPE_F16, DTYPE_BF16, DTYPE_F32, DTYPE_F64, DTYPE_COUNT };

/* The rest of the header. */
typedef struct Text {
	const char *at, *end;
} Text;

typedef struct Word {
	const char *text;
	size_t length;
} Word;

static tda_status malformed(void)
{
	return tda_fail(TDA_BAD_FILE, "the header of the .safetensors file is malformed");
}

static void skip_blanks(Text *t)
{
	while (t->at < t->end && strchr(" \t\r\n", *t->at) && *t->at)
		t->at++;
}

static bool take(Text *t, char c)
{
	skip_blanks(t);
	if (t->at == t->end || *t->at != c)
		return false;
	t->at++;
	return true;
}

static bool take_string(Text *t, Word *word)
{
	if (!take(t, '"'))
		return false;
	word->text = t->at;
	while (t->at < t->end && *t->at != '"' && *t->at != '\\')
		t->at++;
	word->length = (size_t)(t->at - word->text);
	return take(t, '"');
}

static bool take_number(Text *t, int64_t *number)
{
	*number = 0;
	skip_blanks(t);
	if (t->at == t->end || *t->at < '0' || *t->at > '9')
		return false;
	for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
		if (__builtin_mul_overflow(*number, 10, number) || __builtin_add_overflow(*number, *t->at - '0', number))
			return false;
	return true;
}

/* [1, 2, 3] of at most `room` numbers. */
static bool take_numbers(Text *t, int64_t *numbers, int room, int *count)
{
	*count = 0;
	if (!take(t, '['))
		return false;
	if (take(t, ']'))
		return true;
	do {
		if (*count == room || !take_number(t, &numbers[(*count)++]))
			return false;
	} while (take(t, ','));
	return take(t, ']');
}

/* {"format": "pt"}: strings alone, which may hold escapes. */
static bool skip_metadata(Text *t)
{
	bool quoted = false;

	if (!take(t, '{'))
		return false;
	for (; t->at < t->end; t->at++) {
		if (*t->at == '\\' && quoted && t->at + 1 < t->end)
			t->at++;
		else if (*t->at == '"')
			quoted = !quoted;
		else if (*t->at == '}' && !quoted)
			return take(t, '}');
	}
	return false;
}

static bool is_word(Word word, const char *text)
{
	return word.length == strlen(text) && memcmp(word.text, text, word.length) == 0;
}

static tda_status read_tensor(NpySet *set, Text *t, size_t data, Word name)
{
	Member *member = NULL;
	Word key, dtype = { "", 0 };
	int64_t offsets[2] = { 0, 0 }, count = 1;
	int offset_count = 0;
	bool shaped = false;
	tda_status status = npy_set_add(set, name.text, name.length, &member);

	if (status)
		return status;
	if (!take(t, '{'))
		return malformed();
	do {
		bool ok = take_string(t, &key) && take(t, ':');

		if (ok && is_word(key, "dtype"))
			ok = take_string(t, &dtype);
		else if (ok && is_word(key, "shape"))
			ok = shaped = take_numbers(t, member->shape, NPY_MAX_RANK, &member->rank);
		else
			ok = ok && is_word(key, "data_offsets") && take_numbers(t, offsets, 2, &offset_count);
		if (!ok)
			return malformed();
	} while (take(t, ','));
	if (!take(t, '}') || !shaped || offset_count != 2 || !dtype.length)
		return malformed();
	for (member->dtype = 0; member->dtype < DTYPE_COUNT && !is_word(dtype, dtypes[member->dtype].name); member->dtype++)
		;
	if (member->dtype == DTYPE_COUNT)
		return tda_fail(TDA_BAD_FILE, "%s: elements of type %.*s: they must be F16, BF16, F32 or F64", member->name,
		                (int)(dtype.length < 16 ? dtype.length : 16), dtype.text);
	for (int d = 0; d < member->rank; d++)
		if (__builtin_mul_overflow(count, member->shape[d], &count))
			return malformed();
	if (offsets[0] > offsets[1] || (size_t)offsets[1] > set->archive_size - data)
		return tda_fail(TDA_BAD_FILE, "the file is truncated: %s ends behind it", member->name);
	member->offset = data + (size_t)offsets[0];
	member->size = (size_t)(offsets[1] - offsets[0]);
	if (count > INT64_MAX / 8 || (size_t)count * (size_t)dtypes[member->dtype].size != member->size)
		return tda_fail(TDA_BAD_FILE, "%s: its bytes do not match its shape", member->name);
	return TDA_OK;
}

tda_status safetensors_read_directory(NpySet *set)
{
	uint64_t length = 0;
	tda_status status = TDA_OK;
	Text t;
	Word name;

	for (int n = LENGTH_BYTES - 1; n >= 0 && set->archive_size >= LENGTH_BYTES; n--)
		length = length << 8 | set->archive[n];
	if (set->archive_size < LENGTH_BYTES || length > set->archive_size - LENGTH_BYTES)
		return tda_fail(TDA_BAD_FILE, "this is not a .safetensors file, or it is truncated");
	t.at = (const char *)set->archive + LENGTH_BYTES;
	t.end = t.at + length;
	if (!take(&t, '{'))
		return malformed();
	if (take(&t, '}'))
		return TDA_OK;
	do {
		if (!take_string(&t, &name) || !take(&t, ':'))
			return malformed();
		if (is_word(name, "__metadata__"))
			status = skip_metadata(&t) ? TDA_OK : malformed();
		else
			status = read_tensor(set, &t, LENGTH_BYTES + (size_t)length, name);
	} while (!status && take(&t, ','));
	if (status)
		return status;
	return take(&t, '}') ? TDA_OK : malformed();
}

static double load_element(int dtype, const unsigned char *at)
{
	uint16_t half;
	float single;
	double value;

	switch (dtype) {
	case DTYPE_F16:
		memcpy(&half, at, sizeof(half));
		return f16_to_float(half);
	case DTYPE_BF16:
		memcpy(&half, at, sizeof(half));
		return bf16_to_float(half);
	case DTYPE_F32:
		memcpy(&single, at, sizeof(single));
		return single;
	default:
		memcpy(&value, at, sizeof(value));
		return value;
	}
}

tda_status safetensors_read(const NpySet *set, const Member *member, NpyArray *array)
{
	int size = dtypes[member->dtype].size;

	*array = (NpyArray){ .rank = member->rank, .count = (int64_t)(member->size / (size_t)size) };
	memcpy(array->shape, member->shape, sizeof(array->shape));
	array->values = malloc(sizeof(double) * (size_t)(array->count ? array->count : 1));
	if (!array->values)
		return tda_fail_memory();
	for (int64_t n = 0; n < array->count; n++)
		array->values[n] = load_element(member->dtype, set->archive + member->offset + n * size);
	return TDA_OK;
}
