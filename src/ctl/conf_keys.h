/* SPDX-License-Identifier: BSD-3-Clause */
/* What reading, writing and judging a configuration share.  Control thread only. */
#ifndef DVMQ_CONF_KEYS_H
#define DVMQ_CONF_KEYS_H

#include <stddef.h>

#include <dvmq/conf.h>

/* The constants of [balance] by name. */
struct dvmq_balance_key {
	const char *name;
	size_t offset; /* of a double in struct dvmq_balance_params */
};

extern const struct dvmq_balance_key dvmq_balance_keys[];
extern const unsigned dvmq_n_balance_keys;

/* As dvmq_conf_ports_clash(); NULL, or the key that the two share. */
const char *dvmq_conf_clash_key(const struct dvmq_port_conf *a, const struct dvmq_port_conf *b, struct dvmq_err *err);

/*
 * Whether a checked port fits to the rest of a configuration: not the control
 * socket (-EEXIST), and static queues that exist (-EINVAL).  What two ports may
 * not share is dvmq_conf_ports_clash()'s.
 */
int dvmq_conf_port_fits(const struct dvmq_conf *conf, const struct dvmq_port_conf *port, struct dvmq_err *err);

/* The part of it that is about static queues. */
int dvmq_conf_check_vmq(const struct dvmq_conf *conf, const struct dvmq_port_conf *port, struct dvmq_err *err);

/* The text of a value that the file can hold: 1 to size - 1 bytes, nothing that the INI format would change. */
int dvmq_conf_text(const char *key, const char *value, char *buf, size_t size, struct dvmq_err *err);

/* A whole number in decimal, min..max. */
int dvmq_conf_number(const char *key, const char *value, unsigned min, unsigned max, unsigned *ret,
		     struct dvmq_err *err);

/* The address of a Unix socket. */
int dvmq_conf_socket(const char *key, const char *value, char buf[DVMQ_PATH_LEN], struct dvmq_err *err);

/*
 * -EINVAL with "KEY is not known" in err, and what might be meant: words is a
 * list that ends with NULL.
 */
int dvmq_conf_unknown(const char *what, const char *word, const char *const words[], struct dvmq_err *err);

/* The word that looks like this one, or NULL.  words ends with NULL. */
const char *dvmq_similar_word(const char *word, const char *const words[]);

#endif
