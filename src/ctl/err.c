/* SPDX-License-Identifier: BSD-3-Clause */
#include <dvmq/err.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int dvmq_fail(struct dvmq_err *err, int errnum, const char *format, ...)
{
	char text[sizeof(err->text)];
	va_list args;

	/* By way of a local buffer: whoever adds the place to a text passes err->text itself as an argument. */
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	memcpy(err->text, text, sizeof(text));
	errno = errnum;
	return -errnum;
}
