/* Lines and words of a manifest, for its reader alone. Every function that returns a status has worded the error. */
#ifndef TDA_MANIFEST_WORDS_H
#define TDA_MANIFEST_WORDS_H

#include "manifest.h"

typedef struct Word {
	const char *text;
	size_t length;
} Word;

typedef struct Reader {
	Manifest *m;
	int line;
	Word rest;                     /* the line after its keyword */
	Word word[12];                 /* its first words after the keyword */
	int words;                     /* how many words follow the keyword */
	uint32_t seen;                 /* keywords, by their index in the table */
	ManifestKernel *kernel;        /* the one that arg and when belong to */
} Reader;

tda_status manifest_bad_line(const Reader *r, const char *what);
bool word_is(Word word, const char *text);
/* The index of the word in a list that ends with NULL; -1: none of them. */
int word_choice(Word word, const char *const *choices);
/* An identifier. */
tda_status word_copy_name(const Reader *r, Word word, char *to, size_t size);
/* A word that is printed but not looked up: a version, for instance. */
tda_status word_copy_printable(const Reader *r, Word word, char *to, size_t size);
/* Of the word with that number after the keyword: one of a list; an integer in lo..hi; a finite number >= lo. */
tda_status word_read_choice(const Reader *r, int word, const char *const *choices, int *choice);
tda_status word_read_int(const Reader *r, int word, int64_t lo, int64_t hi, int *value);
tda_status word_read_real(const Reader *r, int word, double lo, double *value);

#endif
