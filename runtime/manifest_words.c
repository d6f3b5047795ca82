#include <math.h>
#include <string.h>
#include "error.h"
#include "manifest_words.h"
#include "number.h"

tda_status manifest_bad_line(const Reader *r, const char *what)
{
	return tda_fail(TDA_BAD_FILE, "line %d of the manifest: %s; the file is damaged or was edited: compile the spec again",
	                r->line, what);
}

bool word_is(Word word, const char *text)
{
	return strlen(text) == word.length && memcmp(text, word.text, word.length) == 0;
}

static bool is_name_char(char c, bool first)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || (!first && c >= '0' && c <= '9');
}

tda_status word_copy_name(const Reader *r, Word word, char *to, size_t size)
{
	if (word.length == 0 || word.length >= size)
		return manifest_bad_line(r, "a name is empty or too long");
	for (size_t c = 0; c < word.length; c++)
		if (!is_name_char(word.text[c], c == 0))
			return manifest_bad_line(r, "a name has a character that names do not have");
	memcpy(to, word.text, word.length);
	to[word.length] = 0;
	return TDA_OK;
}

tda_status word_copy_printable(const Reader *r, Word word, char *to, size_t size)
{
	if (word.length == 0 || word.length >= size)
		return manifest_bad_line(r, "a word is too long");
	for (size_t c = 0; c < word.length; c++)
		if (word.text[c] <= ' ' || word.text[c] > '~')
			return manifest_bad_line(r, "a word has a character that is not printable");
	memcpy(to, word.text, word.length);
	to[word.length] = 0;
	return TDA_OK;
}

int word_choice(Word word, const char *const *choices)
{
	for (int c = 0; choices[c]; c++)
		if (word_is(word, choices[c]))
			return c;
	return -1;
}

tda_status word_read_choice(const Reader *r, int word, const char *const *choices, int *choice)
{
	*choice = word_choice(r->word[word], choices);
	return *choice < 0 ? manifest_bad_line(r, "the value is none of those that this libtda knows") : TDA_OK;
}

tda_status word_read_int(const Reader *r, int word, int64_t lo, int64_t hi, int *value)
{
	int64_t wide;

	if (!integer_parse(r->word[word].text, r->word[word].length, lo, hi, &wide))
		return manifest_bad_line(r, "a number is malformed or out of range");
	*value = (int)wide;
	return TDA_OK;
}

tda_status word_read_real(const Reader *r, int word, double lo, double *value)
{
	if (!number_parse(r->word[word].text, r->word[word].length, value) || !isfinite(*value) || *value < lo)
		return manifest_bad_line(r, "a number is malformed or out of range");
	return TDA_OK;
}
