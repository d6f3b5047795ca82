/* SHA-256 against the vectors of FIPS 180-4 and the lengths around a block's end. */
#include <string.h>
#include "sha256.h"
#include "testing.h"

int main(void)
{
	static const struct {
		size_t length;                     /* of a run of 'a' */
		const char *hex;
	} runs[] = {
		{ 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318" },
		{ 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a" },
		{ 63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34" },
		{ 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb" },
		{ 1000, "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3" },
	};
	char hex[65];
	sha256_hex("", 0, hex);
	CHECK(strcmp(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855") == 0, "%s", hex);
	sha256_hex("abc", 3, hex);
	CHECK(strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 0, "%s", hex);
	static char text[1000];
	memset(text, 'a', sizeof text);
	for (size_t k = 0; k < sizeof runs / sizeof runs[0]; k++) {
		sha256_hex(text, runs[k].length, hex);
		CHECK(strcmp(hex, runs[k].hex) == 0, "%zu bytes: %s", runs[k].length, hex);
	}
	return test_end();
}
