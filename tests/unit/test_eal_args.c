/* SPDX-License-Identifier: BSD-3-Clause */
/* The argument vector for EAL: what the configuration implies, what it says, and what the command line says. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <rte_config.h>

#include <dvmq/eal_args.h>

#include "unit.h"

#define MAX_WORDS 64

static struct dvmq_conf conf;
static struct dvmq_err err;

/* The vector as one line, without the program's name, for "-a b" on the command line. */
static const char *result(const char *command_line)
{
	static char text[65536], copy[4096];
	char *argv[MAX_WORDS], **out = NULL;
	int argc = 0, n = 0;
	size_t used = 0;

	snprintf(copy, sizeof(copy), "%s", command_line);
	for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " "))
		argv[argc++] = word;
	err.text[0] = 0;
	if (dvmq_eal_args("dvmqd", &conf, argc, argv, &n, &out, &err) < 0)
		return "refused";
	CU_ASSERT_STRING_EQUAL(out[0], "dvmqd");
	CU_ASSERT_PTR_NULL(out[n]);
	text[0] = 0;
	for (int i = 1; i < n; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", i > 1 ? " " : "", out[i]);
	return text;
}

static void expect(const char *command_line, const char *expected)
{
	const char *got = result(command_line);

	CU_ASSERT_STRING_EQUAL(got, expected);
	if (strcmp(got, expected))
		fprintf(stderr, "\nexpected: %s\ngot:      %s %s\n", expected, got, err.text);
}

static void begin(void)
{
	memset(&conf, 0, sizeof(conf));
	conf.has_workers = conf.has_control = true;
	conf.workers[0] = 2;
	conf.workers[1] = 3;
	conf.workers[2] = 5;
	conf.n_workers = 3;
	conf.control = 0;
}

static void test_lcores(void)
{
	begin();
	expect("", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --file-prefix=dvmq");
	conf.control = 7;
	expect("", "--lcores 2@2,3@3,5@5,7@7 --main-lcore=7 --file-prefix=dvmq");
}

/* A CPU that controls and works has two lcores; the worker's keeps the CPU's number, the other is a free one. */
static void test_shared_cpu(void)
{
	char expected[64];

	begin();
	conf.control = 2;
	expect("", "--lcores 2@2,3@3,5@5,4@2 --main-lcore=4 --file-prefix=dvmq");
	conf.control = 5;
	expect("", "--lcores 2@2,3@3,5@5,6@5 --main-lcore=6 --file-prefix=dvmq");
	conf.workers[2] = RTE_MAX_LCORE - 1;
	conf.control = RTE_MAX_LCORE - 1;
	snprintf(expected, sizeof(expected), ",0@%u --main-lcore=0 ", RTE_MAX_LCORE - 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(result(""), expected));
	conf.control = RTE_MAX_LCORE + 2; /* a CPU that has no lcore of its number */
	snprintf(expected, sizeof(expected), ",4@%u --main-lcore=4 ", RTE_MAX_LCORE + 2);
	CU_ASSERT_PTR_NOT_NULL(strstr(result(""), expected));
}

static void test_cpu_beyond_lcores(void)
{
	char expected[64];

	begin();
	conf.workers[2] = RTE_MAX_LCORE;
	expect("", "refused");
	snprintf(expected, sizeof(expected), "CPU %u ", RTE_MAX_LCORE);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, expected));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "--lcores="));
	conf.eal_args = "--lcores=1@128,0@0"; /* the remedy */
	expect("", "--file-prefix=dvmq --lcores=1@128,0@0");
}

static void test_no_lcore_left(void)
{
	char expected[64];

	begin();
	conf.n_workers = RTE_MAX_LCORE; /* all of them, also CPU 0, which controls */
	for (unsigned i = 0; i < RTE_MAX_LCORE; i++)
		conf.workers[i] = i;
	expect("", "refused");
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "control"));
	conf.n_workers--;
	snprintf(expected, sizeof(expected), ",%u@0 --main-lcore=%u ", RTE_MAX_LCORE - 1, RTE_MAX_LCORE - 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(result(""), expected));
}

/* Nothing said: the first CPU that we may use controls, the others work; a single one does both. */
static void test_defaults(void)
{
	cpu_set_t before, one;
	char expected[128];
	unsigned cpu = 0;

	begin();
	conf.has_workers = conf.has_control = false;
	conf.n_workers = 0;
	CU_ASSERT_EQUAL_FATAL(sched_getaffinity(0, sizeof(before), &before), 0);
	while (!CPU_ISSET(cpu, &before))
		cpu++;
	snprintf(expected, sizeof(expected), "%u@%u --main-lcore=%u", cpu, cpu, cpu);
	if (CPU_COUNT(&before) > 1)
		CU_ASSERT_PTR_NOT_NULL(strstr(result(""), expected));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	CU_ASSERT_EQUAL_FATAL(sched_setaffinity(0, sizeof(one), &one), 0);
	snprintf(expected, sizeof(expected), "--lcores %u@%u,%u@%u --main-lcore=%u --file-prefix=dvmq", cpu, cpu,
		 cpu + 1, cpu, cpu + 1);
	expect("", expected);
	CU_ASSERT_EQUAL(sched_setaffinity(0, sizeof(before), &before), 0);
}

static void test_command_line_wins(void)
{
	begin();
	conf.eal_args = "--no-pci -m 512 --file-prefix=mine --iova-mode=pa";
	expect("", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --no-pci -m 512 --file-prefix=mine --iova-mode=pa");
	expect("-m 256 --iova-mode va", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --no-pci --file-prefix=mine -m 256 "
					"--iova-mode va");
	expect("-m256", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --no-pci --file-prefix=mine --iova-mode=pa -m256");
	expect("--file-prefix yours", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --no-pci -m 512 --iova-mode=pa "
				      "--file-prefix yours");
	conf.eal_args = "--file-prefix mine   \t --no-pci"; /* its value goes with it */
	expect("--file-prefix=yours", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --no-pci --file-prefix=yours");
	conf.eal_args = NULL;
	expect("--file-prefix=yours", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --file-prefix=yours");
	conf.eal_args = "--no-huge";
	expect("--no-huge-unlink", "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --file-prefix=dvmq --no-huge "
				   "--no-huge-unlink"); /* another option that begins alike */
}

static void test_repeatable(void)
{
	begin();
	conf.eal_args = "--vdev net_tap0 --vdev=net_tap1 -a 0000:3b:00.0 --log-level=pmd:debug";
	expect("--vdev=net_tap2 --log-level lib:info -a 0000:3c:00.0",
	       "--lcores 2@2,3@3,5@5,0@0 --main-lcore=0 --file-prefix=dvmq "
	       "--vdev net_tap0 --vdev=net_tap1 -a 0000:3b:00.0 --log-level=pmd:debug "
	       "--vdev=net_tap2 --log-level lib:info -a 0000:3c:00.0");
}

static void test_lcores_by_hand(void)
{
	begin();
	expect("-l 0,1", "--file-prefix=dvmq -l 0,1");
	expect("-l0,1", "--file-prefix=dvmq -l0,1");
	expect("-c 3", "--file-prefix=dvmq -c 3");
	expect("--lcores=0,1@0", "--file-prefix=dvmq --lcores=0,1@0");
	conf.eal_args = "--lcores=(0-3)@0 --no-pci"; /* by the configuration ... */
	expect("", "--file-prefix=dvmq --lcores=(0-3)@0 --no-pci");
	expect("-l 4,5",
	       "--file-prefix=dvmq --no-pci -l 4,5"); /* ... and the command line wins, whatever the spelling */
	conf.eal_args = "-l 0,1 --no-pci";
	expect("--lcores 4,5", "--file-prefix=dvmq --no-pci --lcores 4,5");
}

static void test_too_many(void)
{
	static char many[8192];

	begin();
	for (unsigned i = 0; i < 600; i++)
		strcat(many, "--vdev=a ");
	conf.eal_args = many;
	expect("", "refused");
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "512"));
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"lcores of workers and control", test_lcores},
	    {"control shares a worker's CPU", test_shared_cpu},
	    {"a CPU beyond the lcores", test_cpu_beyond_lcores},
	    {"no lcore left", test_no_lcore_left},
	    {"defaults", test_defaults},
	    {"the command line wins", test_command_line_wins},
	    {"options that may be repeated", test_repeatable},
	    {"lcores by hand", test_lcores_by_hand},
	    {"too many words", test_too_many},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("EAL arguments", tests);
}
