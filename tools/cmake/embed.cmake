# cmake -DOUTPUT=x.c -DSYMBOL=name -DHEADER=x.h -DINPUTS=a;b -P embed.cmake
# Writes the files, one after the other, as one NUL-terminated array of char.
set(bytes "")
foreach(input ${INPUTS})
  file(READ ${input} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," hex "${hex}")
  string(APPEND bytes "${hex}0x0a,")
endforeach()
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT} "#include \"${HEADER}\"\n\nconst char ${SYMBOL}[] = {\n${bytes}0};\n")
