/* "did you mean": the nearest known word to an unknown one. */
#ifndef TDAGEN_SUGGEST_H
#define TDAGEN_SUGGEST_H

/* NULL when no word is near. Of equally near ones the first in the alphabet, whatever their order. */
const char *suggest_word(const char *word, const char *const *words, int count);

#endif
