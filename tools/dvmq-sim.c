/* SPDX-License-Identifier: BSD-3-Clause */
/* dvmq-sim: the planner of the daemon, without a daemon. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "dvmq/plan_json.h"
#include "sim.h"

static const char usage[] = "usage: dvmq-sim plan FILE\n"
			    "       dvmq-sim run --scenario NAME | --trace FILE [option...]\n"
			    "       dvmq-sim share [option...]\n"
			    "       dvmq-sim spread [option...]\n"
			    "       dvmq-sim list\n"
			    "plan: the plan for one snapshot; JSON in (- is stdin), JSON out\n"
			    "run options:\n"
			    "  --cores N, --queues N   2..256, 1..8192; the scenario has defaults\n"
			    "  --trials N              runs with different random numbers\n"
			    "  --seed N                where the random numbers begin; the same seed, the same result\n"
			    "  --planner NAME...       which planners; all that fit unless named\n"
			    "  --json                  JSON instead of a table\n"
			    "  --csv FILE, --svg FILE  write the result as CSV, draw it (needs gnuplot)\n"
			    "share: which ports get the scarce NIC queues; spread: one VM with several of them\n"
			    "options of both: --queues N, --zipf S, --trials N, --seed N, --json, --csv, --svg;\n"
			    "  of share: --ports N, --seconds N; of spread: --workers N\n";

static const char *queue_name(uint32_t id, void *arg)
{
	return ((char **)arg)[id];
}

static int print_plan(const struct sim_input *in)
{
	struct dvmq_balance *balance = dvmq_balance_new(&in->params);
	enum dvmq_loop loop = in->slow ? DVMQ_LOOP_SLOW : DVMQ_LOOP_FAST;
	struct dvmq_plan plan;
	double start, took;
	json_t *object = NULL;
	int ret = -ENOMEM;

	if (balance) {
		/* Allocates the scratch memory, as it is in a daemon: the time of the second is measured. */
		dvmq_balance_plan(balance, &in->snapshot, loop, in->max_moves, true, &plan);
		start = sim_cpu_us();
		ret = dvmq_balance_plan(balance, &in->snapshot, loop, in->max_moves, false, &plan);
		took = sim_cpu_us() - start;
	}
	if (ret == 0)
		object = dvmq_plan_json(&in->snapshot, &plan, queue_name, in->names, took);
	if (object)
		ret = json_dumpf(object, stdout, JSON_INDENT(2)) < 0 || printf("\n") < 0 || fflush(stdout) ? -EIO : 0;
	else
		ret = -ENOMEM;
	if (ret < 0)
		fprintf(stderr, "dvmq-sim: cannot print the plan: %s\n", strerror(-ret));
	json_decref(object);
	dvmq_balance_free(balance);
	return ret < 0 ? 1 : 0;
}

static int plan(const char *file)
{
	const char *what = strcmp(file, "-") == 0 ? "stdin" : file;
	FILE *from = what == file ? fopen(file, "r") : stdin;
	struct sim_input in;
	json_error_t error;
	json_t *root;
	int ret = 1;

	if (!from) {
		fprintf(stderr, "%s: cannot be read: %s\n", file, strerror(errno));
		return 1;
	}
	root = json_loadf(from, 0, &error);
	if (from != stdin)
		fclose(from);
	if (!root) {
		fprintf(stderr, "%s:%d:%d: no valid JSON: %s\n", what, error.line, error.column, error.text);
		return 1;
	}
	if (sim_read(what, root, &in) == 0) {
		ret = print_plan(&in);
		sim_input_free(&in);
	}
	json_decref(root);
	return ret;
}

static int list(void)
{
	printf("scenarios:\n");
	for (const struct sim_scenario *s = sim_scenarios; s->name; s++)
		printf("  %-11s %s (%u cores, %u queues, %u trials)\n", s->name, s->what, s->cores, s->queues,
		       s->trials);
	printf("planners:\n");
	for (const struct sim_planner *p = sim_planners; p->name; p++)
		printf("  %-11s %s\n", p->name, p->what);
	return 0;
}

/* ------------------------------------------------------------ run */

static bool number(const char *option, const char *text, unsigned long least, unsigned long most,
		   unsigned long *ret_value)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < least || value > most) {
		fprintf(stderr, "dvmq-sim: --%s %s: must be a number from %lu to %lu\n", option, text, least, most);
		return false;
	}
	*ret_value = value;
	return true;
}

static bool add_planner(struct sim_job *job, const char *name)
{
	for (const struct sim_planner *p = sim_planners; p->name; p++)
		if (strcmp(p->name, name) == 0) {
			if (job->n_planners < sizeof(job->planners) / sizeof(*job->planners))
				job->planners[job->n_planners++] = p;
			return true;
		}
	fprintf(stderr, "dvmq-sim: --planner %s: no such planner; see dvmq-sim list\n", name);
	return false;
}

static bool find_scenario(struct sim_job *job, const char *name)
{
	for (const struct sim_scenario *s = sim_scenarios; s->name; s++)
		if (strcmp(s->name, name) == 0) {
			job->scenario = s;
			return true;
		}
	fprintf(stderr, "dvmq-sim: --scenario %s: no such scenario; see dvmq-sim list\n", name);
	return false;
}

/* The exact optimum takes for ever where queues are many. */
static bool optimum_fits(const struct sim_job *job)
{
	return !job->frames && job->scenario->seconds == 0 && job->queues <= 16;
}

static bool choose_planners(struct sim_job *job)
{
	bool all = job->n_planners == 0;

	for (const struct sim_planner *p = sim_planners; all && p->name; p++)
		if (strcmp(p->name, "optimum") != 0 || optimum_fits(job))
			job->planners[job->n_planners++] = p;
	for (unsigned i = 0; i < job->n_planners; i++)
		if (strcmp(job->planners[i]->name, "optimum") == 0 && !optimum_fits(job)) {
			fprintf(stderr, "dvmq-sim: --planner optimum: only with at most 16 queues and one decision "
					"(scenarios elephants, large)\n");
			return false;
		}
	return true;
}

static bool parse(int argc, char **argv, struct sim_job *job, const char **ret_trace)
{
	static const struct option options[] = {
	    {"scenario", required_argument, NULL, 's'},
	    {"trace", required_argument, NULL, 't'},
	    {"cores", required_argument, NULL, 'c'},
	    {"queues", required_argument, NULL, 'q'},
	    {"trials", required_argument, NULL, 'n'},
	    {"seed", required_argument, NULL, 'r'},
	    {"planner", required_argument, NULL, 'p'},
	    {"json", no_argument, NULL, 'j'},
	    {"csv", required_argument, NULL, 'v'},
	    {"svg", required_argument, NULL, 'g'},
	    {0},
	};
	unsigned long cores = 0, queues = 0, trials = 0, seed = 1;
	bool ok = true;
	int c;

	while (ok && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 's':
			ok = find_scenario(job, optarg);
			break;
		case 't':
			*ret_trace = optarg;
			break;
		case 'c':
			ok = number("cores", optarg, 2, SIM_CORES_MAX, &cores);
			break;
		case 'q':
			ok = number("queues", optarg, 1, SIM_QUEUES_MAX, &queues);
			break;
		case 'n':
			ok = number("trials", optarg, 1, 1000000, &trials);
			break;
		case 'r':
			ok = number("seed", optarg, 0, INT64_MAX, &seed);
			break;
		case 'p':
			ok = add_planner(job, optarg);
			/* --planner NAME... */
			while (ok && optind < argc && argv[optind][0] != '-')
				ok = add_planner(job, argv[optind++]);
			break;
		case 'j':
			job->json = true;
			break;
		case 'v':
			job->csv = optarg;
			break;
		case 'g':
			job->svg = optarg;
			break;
		default:
			ok = false;
		}
	if (ok && optind < argc) {
		fprintf(stderr, "dvmq-sim: %s: unexpected\n", argv[optind]);
		ok = false;
	}
	if (ok && !job->scenario == !*ret_trace) {
		fprintf(stderr, "dvmq-sim: run needs either --scenario NAME or --trace FILE\n");
		ok = false;
	}
	if (ok && *ret_trace && (cores || queues)) {
		fprintf(stderr, "dvmq-sim: --cores and --queues are those of the trace\n");
		ok = false;
	}
	if (ok && job->scenario) {
		job->cores = cores ? cores : job->scenario->cores;
		job->queues = queues ? queues : job->scenario->queues;
		job->trials = trials ? trials : job->scenario->trials;
	}
	job->seed = seed;
	return ok;
}

static int run(int argc, char **argv)
{
	static struct sim_result results[sizeof(((struct sim_job *)0)->planners) / sizeof(void *)];
	struct sim_job job = {.trials = 1};
	const char *trace = NULL;
	int ret;

	if (!parse(argc, argv, &job, &trace))
		return 1;
	if (trace) {
		if (sim_read_trace(trace, &job.frames, &job.n_frames) < 0)
			return 1;
		job.cores = job.frames[0].snapshot.n_cores;
		job.queues = job.frames[0].snapshot.n_queues;
	}
	ret = choose_planners(&job) ? sim_run(&job, results) : -1;
	if (ret == 0)
		ret = sim_output(&job, results);
	for (unsigned i = 0; i < job.n_planners; i++) {
		free(results[i].ratio);
		free(results[i].moved);
		free(results[i].trials);
		free(results[i].decision_us);
	}
	sim_free_trace(job.frames, job.n_frames);
	return ret < 0 ? 1 : 0;
}

/* ------------------------------------------------------------ share, spread */

static bool zipf_exponent(const char *text, double *ret_value)
{
	char *end;

	*ret_value = strtod(text, &end);
	if (end != text && !*end && *ret_value >= 0 && *ret_value <= 10)
		return true;
	fprintf(stderr, "dvmq-sim: --zipf %s: must be a number from 0 to 10\n", text);
	return false;
}

static bool parse_nic(int argc, char **argv, struct sim_options *o)
{
	static const struct option options[] = {
	    {"queues", required_argument, NULL, 'q'},
	    {"ports", required_argument, NULL, 'p'},
	    {"workers", required_argument, NULL, 'w'},
	    {"seconds", required_argument, NULL, 's'},
	    {"trials", required_argument, NULL, 'n'},
	    {"seed", required_argument, NULL, 'r'},
	    {"zipf", required_argument, NULL, 'z'},
	    {"json", no_argument, NULL, 'j'},
	    {"csv", required_argument, NULL, 'v'},
	    {"svg", required_argument, NULL, 'g'},
	    {0},
	};
	bool share = strcmp(argv[0], "share") == 0, ok = true;
	int c, which = 0;

	while (ok && (c = getopt_long(argc, argv, "", options, &which)) != -1) {
		if (share ? c == 'w' : c == 'p' || c == 's') {
			fprintf(stderr, "dvmq-sim: %s has no option --%s\n", argv[0], options[which].name);
			return false;
		}
		if (c == 'q')
			ok = number("queues", optarg, 1, share ? 1024 : 128, &o->queues);
		else if (c == 'p')
			ok = number("ports", optarg, 1, 1024, &o->ports);
		else if (c == 'w')
			ok = number("workers", optarg, 1, 128, &o->workers);
		else if (c == 's')
			ok = number("seconds", optarg, 1, 100000, &o->seconds);
		else if (c == 'n')
			ok = number("trials", optarg, 1, 1000000, &o->trials);
		else if (c == 'r')
			ok = number("seed", optarg, 0, INT64_MAX, &o->seed);
		else if (c == 'z')
			ok = zipf_exponent(optarg, &o->zipf);
		else if (c == 'j')
			o->json = true;
		else if (c == 'v')
			o->csv = optarg;
		else if (c == 'g')
			o->svg = optarg;
		else
			ok = false;
	}
	if (ok && optind < argc) {
		fprintf(stderr, "dvmq-sim: %s: unexpected\n", argv[optind]);
		ok = false;
	}
	return ok;
}

static int share(int argc, char **argv)
{
	struct sim_options o = {.ports = 64, .queues = 16, .seconds = 60, .trials = 10, .seed = 1, .zipf = 1};

	return parse_nic(argc, argv, &o) && sim_share(&o) == 0 ? 0 : 1;
}

static int spread(int argc, char **argv)
{
	struct sim_options o = {.queues = 4, .workers = 2, .trials = 1000, .seed = 1};

	return parse_nic(argc, argv, &o) && sim_spread(&o) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc >= 2 && strcmp(argv[1], "share") == 0)
		return share(argc - 1, argv + 1);
	if (argc >= 2 && strcmp(argv[1], "spread") == 0)
		return spread(argc - 1, argv + 1);
	if (argc == 3 && strcmp(argv[1], "plan") == 0)
		return plan(argv[2]);
	if (argc == 2 && strcmp(argv[1], "list") == 0)
		return list();
	if (argc >= 2 && strcmp(argv[1], "run") == 0)
		return run(argc - 1, argv + 1);
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return fputs(usage, stdout) < 0;
	fputs(usage, stderr);
	return 1;
}
