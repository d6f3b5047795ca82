#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "ptx_lex.h"

static bool word_start(char c)
{
	return isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

static bool word_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '.';
}

static bool starts(const Lexer *lexer, const char *text)
{
	size_t n = strlen(text);
	return (size_t)(lexer->end - lexer->at) >= n && memcmp(lexer->at, text, n) == 0;
}

/* An unclosed comment runs to the end of the text. */
static void skip_blanks(Lexer *lexer)
{
	bool line_comment = false, block_comment = false;
	for (; lexer->at < lexer->end; lexer->at++) {
		char c = *lexer->at;
		if (c == '\n') {
			lexer->line++;
			line_comment = false;
		} else if (block_comment) {
			if (starts(lexer, "*/")) {
				block_comment = false;
				lexer->at++;
			}
		} else if (!line_comment) {
			if (starts(lexer, "//"))
				line_comment = true;
			else if (starts(lexer, "/*"))
				block_comment = true, lexer->at++;
			else if (!isspace((unsigned char)c))
				return;
		}
	}
}

/* A word may hold "::" (.L1::no_allocate, .shared::cta); a single ':' ends a label. */
static void lex_word(Lexer *lexer)
{
	do {
		lexer->at++;
		if (starts(lexer, "::"))
			lexer->at += 2;
	} while (lexer->at < lexer->end && word_char(*lexer->at));
	lexer->token.kind = TOKEN_WORD;
}

static void lex_bits(Lexer *lexer, TokenKind kind, int digits)
{
	uint64_t value = 0;
	lexer->at += 2;
	for (int i = 0; i < digits; i++, lexer->at++) {
		if (lexer->at >= lexer->end || !isxdigit((unsigned char)*lexer->at))
			return;
		int c = tolower((unsigned char)*lexer->at);
		value = value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	lexer->token.kind = kind;
	lexer->token.value = value;
}

/* 12, 0x1F, 0b101, 017, 1.5, 1e3, with an optional U. */
static void lex_number(Lexer *lexer)
{
	char buffer[64];
	size_t n = 0;
	const char *p = lexer->at;
	while (p < lexer->end && n + 1 < sizeof buffer && (word_char(*p)
	       || ((*p == '+' || *p == '-') && n && strchr("eE", buffer[n - 1]) && !strpbrk(buffer, "xX")))) {
		buffer[n++] = *p++;
		buffer[n] = 0;
	}
	lexer->at = p;
	char *rest;
	if (n > 2 && buffer[0] == '0' && strchr("bB", buffer[1]))
		lexer->token.value = strtoull(buffer + 2, &rest, 2);
	else
		lexer->token.value = strtoull(buffer, &rest, 0);
	if (*rest == 'U' || *rest == 'u')
		rest++;
	if (!*rest) {
		lexer->token.kind = TOKEN_INT;
		return;
	}
	double x = strtod(buffer, &rest);
	if (!*rest && !strpbrk(buffer, "xX")) {
		memcpy(&lexer->token.value, &x, sizeof x);
		lexer->token.kind = TOKEN_F64;
	}
}

static void lex_string(Lexer *lexer)
{
	const char *p = lexer->at + 1;
	while (p < lexer->end && *p != '"' && *p != '\n')
		p += *p == '\\' && p + 1 < lexer->end && p[1] != '\n' ? 2 : 1;
	lexer->at = p;
	if (p < lexer->end && *p == '"') {
		lexer->token.kind = TOKEN_STRING;
		lexer->at++;
	}
}

void lex_next(Lexer *lexer)
{
	skip_blanks(lexer);
	const char *start = lexer->at;
	lexer->token = (Token){ .kind = TOKEN_BAD, .text = start, .line = lexer->line };
	if (start >= lexer->end) {
		lexer->token.kind = TOKEN_END;
		return;
	}
	if (word_start(*start))
		lex_word(lexer);
	else if (starts(lexer, "0f") || starts(lexer, "0F"))
		lex_bits(lexer, TOKEN_F32, 8);
	else if (starts(lexer, "0d") || starts(lexer, "0D"))
		lex_bits(lexer, TOKEN_F64, 16);
	else if (isdigit((unsigned char)*start))
		lex_number(lexer);
	else if (*start == '"')
		lex_string(lexer);
	else {
		lexer->at++;
		if (strchr("{}[]()<>,;:@!|+-=*", *start) && *start)
			lexer->token.kind = TOKEN_PUNCT;
	}
	lexer->token.length = (size_t)(lexer->at - start);
	if (lexer->token.kind == TOKEN_STRING) {
		lexer->token.text++;
		lexer->token.length -= 2;
	}
}

void lex_start(Lexer *lexer, const char *text, size_t length)
{
	*lexer = (Lexer){ .at = text, .end = text + length, .line = 1 };
	lex_next(lexer);
}

bool token_is(const Token *token, const char *text)
{
	return (token->kind == TOKEN_WORD || token->kind == TOKEN_PUNCT) && strlen(text) == token->length
		&& memcmp(token->text, text, token->length) == 0;
}
