/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * "save trace": what the planner sees at each slow loop, one JSON object a line, as dvmq-sim reads it.
 *
 * Lines are collected in memory and written about once a second, whole lines only: the file can be replayed at any
 * time, also if the daemon is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dvmq/control.h>
#include <dvmq/log.h>

#define WRITE_EVERY_MS 1000
#define WRITE_AT       (1 << 20) /* bytes that are not kept back any longer */

static struct {
	int fd; /* -1: nothing is recorded */
	char file[PATH_MAX];
	uint64_t end_ms, write_ms;
	FILE *lines; /* not yet written, into `text`; NULL: none */
	char *text;
	size_t len;
	off_t written;	    /* bytes */
	unsigned snapshots; /* in the file */
	unsigned pending;   /* snapshots in `lines` */
	char ended[128];    /* why it ended before its time; "": it did not */
} trace = {.fd = -1};

static void drop_lines(void)
{
	if (trace.lines)
		fclose(trace.lines);
	free(trace.text);
	trace.lines = NULL;
	trace.text = NULL;
	trace.pending = 0;
}

static void finish(void)
{
	close(trace.fd);
	trace.fd = -1;
}

/* What was written before stays, and can be replayed. */
static void give_up(int errnum)
{
	const char *remedy = errnum == ENOSPC || errnum == EDQUOT ? "; make room, and record for a shorter time" : "";

	drop_lines();
	if (ftruncate(trace.fd, trace.written) < 0)
		remedy = "; its last line may be cut off";
	snprintf(trace.ended, sizeof(trace.ended), "%s%s", strerror(errnum), remedy);
	DVMQ_LOG(ERR, "trace %s ended after %u snapshots: %s", trace.file, trace.snapshots, trace.ended);
	finish();
}

/* 0 or -errno. */
static int write_all(const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(trace.fd, text, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static void write_lines(void)
{
	int ret;

	if (!trace.lines)
		return;
	ret = fclose(trace.lines) == 0 ? 0 : -errno;
	trace.lines = NULL;
	if (ret == 0)
		ret = write_all(trace.text, trace.len);
	if (ret < 0) {
		give_up(-ret);
		return;
	}
	trace.written += (off_t)trace.len;
	trace.snapshots += trace.pending;
	drop_lines();
}

/* JSON has no NaN and no infinity. */
static double finite_or(double value, double other)
{
	return isfinite(value) ? value : other;
}

static void print_cores(FILE *out, const struct dvmq_snapshot *snapshot)
{
	static const char *const wishes[] = {
	    [DVMQ_CORE_AUTO] = "auto",
	    [DVMQ_CORE_KEEP_PARKED] = "park",
	    [DVMQ_CORE_KEEP_ACTIVE] = "activate",
	};

	for (unsigned i = 0; i < snapshot->n_cores; i++) {
		const struct dvmq_balance_core *core = &snapshot->cores[i];

		fprintf(out, "%s{\"core\":%u,\"numa\":%d,\"sibling\":%d,\"state\":\"%s\",\"wish\":\"%s\"}",
			i ? "," : "", core->id, core->numa, core->sibling,
			core->state == DVMQ_CORE_ACTIVE ? "active" : "parked", wishes[core->wish]);
	}
}

/* Names have no character that JSON would escape, see dvmq_conf_port_init(). */
static void print_queues(FILE *out, const struct dvmq_snapshot *snapshot, struct dvmq_queue *const *queues)
{
	for (unsigned i = 0; i < snapshot->n_queues; i++) {
		const struct dvmq_balance_queue *queue = &snapshot->queues[i];

		fprintf(out,
			"%s{\"queue\":\"%s\",\"core\":%u,\"numa\":%d,\"group\":%u,\"demand\":%.6f,\"occupancy\":%.4f,"
			"\"age_ms\":%.1f,\"pinned\":%s}",
			i ? "," : "", queues[i]->name, queue->core, queue->numa, queue->group,
			finite_or(queue->demand, 0), finite_or(queue->occupancy, 0), finite_or(queue->age_ms, -1),
			queue->pinned ? "true" : "false");
	}
}

/*
 * The rate of moves as `budget_percent`: `budget` is the most moves of one plan in a snapshot.  Printed and not built
 * as a json_t: there may be thousands of queues, 20 times a second.
 */
static void print_snapshot(FILE *out, const struct dvmq_snapshot *snapshot, struct dvmq_queue *const *queues)
{
	const struct dvmq_balance_params *p = dvmq_balancer_params();

	fprintf(out, "{\"t_ms\":%.3f,\"slow\":true,\"params\":{\"high\":%.9g,\"target\":%.9g,\"margin\":%.9g,",
		snapshot->now_ms, p->high, p->target, p->margin);
	fprintf(out, "\"fast_ms\":%.9g,\"slow_ms\":%.9g,\"budget_percent\":%.9g,\"cooldown_ms\":%.9g,", p->fast_ms,
		p->slow_ms, p->budget, p->cooldown_ms);
	fprintf(out, "\"hold_ms\":%.9g},\"cores\":[", p->hold_ms);
	print_cores(out, snapshot);
	fputs("],\"queues\":[", out);
	print_queues(out, snapshot, queues);
	fputs("]}\n", out);
}

bool dvmq_trace_on(void)
{
	return trace.fd >= 0;
}

void dvmq_trace_snapshot(const struct dvmq_snapshot *snapshot, struct dvmq_queue *const *queues)
{
	uint64_t now = dvmq_now_ms();

	if (trace.fd < 0)
		return;
	if (!trace.lines)
		trace.lines = open_memstream(&trace.text, &trace.len);
	if (!trace.lines) {
		give_up(errno);
		return;
	}
	print_snapshot(trace.lines, snapshot, queues);
	trace.pending++;
	if (now >= trace.write_ms || now >= trace.end_ms || ftello(trace.lines) >= WRITE_AT) {
		trace.write_ms = now + WRITE_EVERY_MS;
		write_lines();
	}
	if (now >= trace.end_ms)
		dvmq_trace_close();
}

void dvmq_trace_close(void)
{
	if (trace.fd >= 0)
		write_lines();
	if (trace.fd >= 0) /* not given up */
		finish();
}

/* ---- commands ---- */

int dvmq_trace_start(const char *file, unsigned seconds, struct dvmq_err *err)
{
	int fd;

	if (trace.fd >= 0)
		return dvmq_fail(err, EBUSY, "%s is being recorded already; end it by \"save trace off\"", trace.file);
	/* A new file: what stands there is no trace that anybody would want to lose, and no FIFO holds us up. */
	fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (fd < 0)
		return dvmq_fail(err, errno, "%s: %s; name a new file where dvmqd may write", file, strerror(errno));
	if (!realpath(file, trace.file))
		snprintf(trace.file, sizeof(trace.file), "%s", file);
	trace.fd = fd;
	trace.end_ms = dvmq_now_ms() + seconds * 1000ull;
	trace.write_ms = 0;
	trace.written = 0;
	trace.snapshots = 0;
	trace.ended[0] = 0;
	return 0;
}

int dvmq_trace_stop(struct dvmq_err *err)
{
	if (trace.fd < 0)
		return dvmq_fail(err, ENOENT,
				 "no trace is being recorded; \"show balance\" tells how the last one ended");
	dvmq_trace_close();
	if (trace.ended[0])
		return dvmq_fail(err, EIO, "%s ended after %u snapshots: %s", trace.file, trace.snapshots, trace.ended);
	return 0;
}

json_t *dvmq_trace_json(void)
{
	uint64_t now = dvmq_now_ms();
	json_t *o;

	if (!trace.file[0])
		return json_null();
	o = json_object();
	json_object_set_new(o, "file", json_string(trace.file));
	json_object_set_new(o, "state",
			    json_string(trace.fd >= 0	 ? "recording"
					: trace.ended[0] ? "failed"
							 : "complete"));
	json_object_set_new(o, "snapshots", json_integer(trace.snapshots + trace.pending));
	json_object_set_new(
	    o, "seconds_left",
	    json_integer(trace.fd >= 0 && trace.end_ms > now ? (json_int_t)(trace.end_ms - now + 999) / 1000 : 0));
	json_object_set_new(o, "error", trace.ended[0] ? json_string(trace.ended) : json_null());
	return o;
}
