/* SPDX-License-Identifier: BSD-3-Clause */
/* dvmqd: start and stop, mirrored. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>
#include <rte_version.h>

#include <dvmq/alarm.h>
#include <dvmq/control.h>
#include <dvmq/ctl.h>
#include <dvmq/eal_args.h>
#include <dvmq/log.h>

int dvmq_logtype;

static struct options {
	const char *config, *socket;
	bool check, interactive;
} options;

static const char usage[] =
	"usage: dvmqd [EAL options] -- [options]\n"
	"       dvmqd [options]\n"
	"\n"
	"A virtual switch that gives every VM its own NIC queue and moves queues between\n"
	"cores as the load asks.\n"
	"\n"
	"  -c, --config FILE   configuration; see dvmqd.conf(5)\n"
	"      --check-config  only say whether it is right: exit status 0 or 1\n"
	"  -i, --interactive   read commands from the terminal\n"
	"  -s, --socket PATH   control socket, instead of the configured one\n"
	"      --version\n"
	"  -h, --help\n"
	"\n"
	"EAL options (--in-memory, --no-pci, --vdev ...) may also stand in the configuration.\n";

/* Our options stand behind "--"; without one, all are ours. */
static int find_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--") == 0)
			return i;
	return 0;
}

static void parse_options(int argc, char **argv)
{
	enum { CHECK = 256, VERSION };
	static const struct option names[] = {
		{"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, CHECK},
		{"interactive", no_argument, NULL, 'i'},  {"socket", required_argument, NULL, 's'},
		{"version", no_argument, NULL, VERSION},  {"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "c:is:h", names, NULL)) != -1) {
		switch (option) {
		case 'c':
			options.config = optarg;
			break;
		case 's':
			options.socket = optarg;
			break;
		case 'i':
			options.interactive = true;
			break;
		case CHECK:
			options.check = true;
			break;
		case VERSION:
			printf("dvmqd %s (%s)\n", DVMQ_VERSION, rte_version());
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("EAL options stand in front of \"--\"; see dvmqd --help\n", stderr);
			exit(1);
		}
	}
	if (optind < argc) {
		fprintf(stderr, "dvmqd: unexpected argument %s; see dvmqd --help\n", argv[optind]);
		exit(1);
	}
}

static int report(const struct dvmq_err *err)
{
	fprintf(stderr, "dvmqd: %s\n", err->text);
	return 1;
}

static int use_socket(struct dvmq_conf *conf, struct dvmq_err *err)
{
	if (strlen(options.socket) >= sizeof(conf->socket))
		return dvmq_fail(err, ENAMETOOLONG, "--socket: a path of a Unix socket has at most %zu characters",
				 sizeof(conf->socket) - 1);
	strcpy(conf->socket, options.socket);
	return 0;
}

static void on_signal(int number)
{
	(void)number;
	dvmq_quit();
}

/* All threads that EAL and libraries make inherit a mask in which only the control thread takes signals. */
static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void take_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	sigset_t ours;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigfillset(&ours);
	pthread_sigmask(SIG_UNBLOCK, &ours, NULL);
}

static int start_eal(const char *program, const struct dvmq_conf *conf, int argc, char **argv, struct dvmq_err *err)
{
	char **eal_argv;
	int eal_argc;

	if (dvmq_eal_args(program, conf, argc, argv, &eal_argc, &eal_argv, err) < 0)
		return -errno;
	if (rte_eal_init(eal_argc, eal_argv) < 0)
		return dvmq_fail(err, rte_errno ? rte_errno : EINVAL,
				 "DPDK does not start: %s; the EAL line above says why (no hugepages? --no-huge -m 512)",
				 rte_strerror(rte_errno));
	dvmq_telemetry_open();
	dvmq_logtype = rte_log_register_type_and_pick_level("dvmq", RTE_LOG_INFO);
	return 0;
}

static int start_workers(struct dvmq_err *err)
{
	size_t size = rte_rcu_qsbr_get_memsize(DVMQ_MAX_WORKERS + 1);
	unsigned lcore;

	dvmq_rcu = rte_zmalloc("rcu", size, RTE_CACHE_LINE_SIZE);
	if (dvmq_rcu == NULL || rte_rcu_qsbr_init(dvmq_rcu, DVMQ_MAX_WORKERS + 1) != 0)
		return dvmq_fail(err, ENOMEM, "no memory; give DPDK more hugepages (or -m MiB)");
	rte_rcu_qsbr_thread_register(dvmq_rcu, DVMQ_RCU_CONTROLLER);
	RTE_LCORE_FOREACH_WORKER(lcore) {
		struct dvmq_worker *worker;

		if (dvmq_n_workers == DVMQ_MAX_WORKERS)
			return dvmq_fail(err, EINVAL, "more than %u workers; name fewer CPUs in workers =", DVMQ_MAX_WORKERS);
		worker = dvmq_worker_new(lcore, dvmq_n_workers, DVMQ_MAX_QUEUES, err);
		if (worker == NULL)
			return -errno;
		dvmq_workers[dvmq_n_workers++] = worker;
	}
	if (dvmq_n_workers == 0)
		return dvmq_fail(err, EINVAL, "no worker lcore; name CPUs in workers = of [dvmqd]");
	for (unsigned i = 0; i < dvmq_n_workers; i++)
		rte_eal_remote_launch(dvmq_worker_main, dvmq_workers[i], dvmq_workers[i]->core);
	return 0;
}

static void stop_workers(void)
{
	for (unsigned i = 0; i < dvmq_n_workers; i++) {
		atomic_store(&dvmq_workers[i]->stop, true);
		dvmq_worker_wake(dvmq_workers[i]);
	}
	rte_eal_mp_wait_lcore();
	while (dvmq_n_workers > 0)
		dvmq_worker_free(dvmq_workers[--dvmq_n_workers]);
	rte_free(dvmq_rcu);
}

/* With EAL up: workers, then the controller; and back. */
static int serve(const struct dvmq_conf *conf, struct dvmq_err *err)
{
	int ret = dvmq_alarm_open(conf->balance.high, err);

	if (ret == 0)
		ret = start_workers(err);
	if (ret == 0)
		ret = dvmq_control_open(conf, err);
	if (ret == 0) {
		take_signals();
		if (options.interactive)
			ret = dvmq_ctl_prompt(err);
		if (ret == 0)
			dvmq_control_run();
		dvmq_control_close();
	}
	stop_workers();
	dvmq_alarm_close();
	return ret;
}

int main(int argc, char **argv)
{
	int dashes = find_options(argc, argv);
	struct dvmq_conf *conf;
	struct dvmq_err err;
	int ret;

	argv[dashes] = argv[0];
	parse_options(argc - dashes, argv + dashes);
	if (dvmq_conf_read(options.config, &conf, &err) < 0)
		return report(&err);
	if (options.check) {
		printf("%s: ok\n", options.config ? options.config : "(defaults)");
		dvmq_conf_free(conf);
		return 0;
	}
	if (options.socket != NULL && use_socket(conf, &err) < 0)
		return report(&err);
	block_signals();
	ret = dvmq_ctl_open(conf->socket, &err);
	if (ret == 0) {
		ret = start_eal(argv[0], conf, dashes > 0 ? dashes - 1 : 0, argv + 1, &err);
		/*
		 * No rte_eal_cleanup() after it: the threads of the vhost library cannot be
		 * ended, and theirs is the memory that it would unmap.  All devices are closed.
		 */
		if (ret == 0)
			ret = serve(conf, &err);
	}
	dvmq_ctl_close();
	dvmq_conf_free(conf);
	return ret < 0 ? report(&err) : 0;
}
