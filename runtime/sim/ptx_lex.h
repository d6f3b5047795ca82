/* Words of PTX text, one at a time. Skips blanks and comments. Never reads past the end. */
#ifndef TDA_SIM_PTX_LEX_H
#define TDA_SIM_PTX_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum TokenKind {
	TOKEN_END,
	TOKEN_WORD,     /* mov.b32, %tid.x, .reg, $L__BB0_1: names, registers, opcodes and directives with all their dots */
	TOKEN_INT,      /* value */
	TOKEN_F32,      /* 0f........: value holds the 32 bits */
	TOKEN_F64,      /* 0d................ and 1.5: value holds the 64 bits */
	TOKEN_STRING,   /* text without its quotes */
	TOKEN_PUNCT,    /* text[0] */
	TOKEN_BAD,      /* text is what could not be read */
} TokenKind;

typedef struct Token {
	TokenKind kind;
	const char *text;
	size_t length;
	uint32_t line;  /* from 1 */
	uint64_t value;
} Token;

typedef struct Lexer {
	const char *at, *end;
	uint32_t line;
	Token token;    /* the current one */
} Lexer;

void lex_start(Lexer *lexer, const char *text, size_t length);
void lex_next(Lexer *lexer);
bool token_is(const Token *token, const char *text);    /* a word or a punctuation mark */

#endif
