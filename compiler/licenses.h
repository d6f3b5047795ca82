/* The texts of LICENSE.TXT and THIRD_PARTY, built in from those files. */
#ifndef TDAGEN_LICENSES_H
#define TDAGEN_LICENSES_H

extern const char licenses_text[];     /* NUL-terminated */

#endif
