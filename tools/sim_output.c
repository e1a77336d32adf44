/* SPDX-License-Identifier: BSD-3-Clause */
/* What came out: table, JSON, CSV, SVG. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of sorted values. */
static double quantile(const double *values, unsigned n, double q)
{
	unsigned i = n ? (unsigned)ceil(q * n) : 0;

	return n ? values[i > 0 ? i - 1 : 0] : 0;
}

static double mean(const double *values, unsigned n)
{
	double sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += values[i];
	return n ? sum / n : 0;
}

static double share_up_to(const double *values, unsigned n, double limit)
{
	unsigned up_to = 0;

	for (unsigned i = 0; i < n; i++)
		up_to += values[i] <= limit + 1e-9;
	return n ? (double)up_to / n : 0;
}

static bool once(const struct sim_job *job)
{
	return !job->frames && job->scenario->seconds == 0;
}

static void print_table(const struct sim_job *job, const struct sim_result *results)
{
	printf("%s: %u cores, %u queues, %u trial%s, seed %llu\n", job->frames ? "trace" : job->scenario->name,
	       job->cores, job->queues, job->trials, job->trials == 1 ? "" : "s", (unsigned long long)job->seed);
	if (once(job))
		printf("%-11s %9s %9s %9s %9s %9s %9s %9s %9s %9s\n", "planner", "max/bound", "p99", "p99.9", "worst",
		       "<=1.02", "<=1.05", "moved", "p99", "us");
	else
		printf("%-11s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s\n", "planner", "overload", "ms/s", "left",
		       "saturated", "remote", "cores", "fewest", "ratio", "moves/s", "undone", "max load", "us");
	for (unsigned i = 0; i < job->n_planners; i++) {
		const struct sim_result *r = &results[i];
		double us = quantile(r->decision_us, r->n_decisions, 0.5);

		if (once(job))
			printf("%-11s %9.4f %9.4f %9.4f %9.4f %8.2f%% %8.2f%% %8.2f%% %8.2f%% %9.0f\n",
			       r->planner->name, quantile(r->ratio, r->n_trials, 0.5),
			       quantile(r->ratio, r->n_trials, 0.99), quantile(r->ratio, r->n_trials, 0.999),
			       quantile(r->ratio, r->n_trials, 1), 100 * share_up_to(r->ratio, r->n_trials, 1.02),
			       100 * share_up_to(r->ratio, r->n_trials, 1.05), 100 * mean(r->moved, r->n_trials),
			       100 * quantile(r->moved, r->n_trials, 0.99), us);
		else
			printf(
			    "%-11s %8.4f%% %9.3f %8.4f%% %9.3f %8.2f%% %9.2f %9.2f %9.3f %9.1f %8.2f%% %9.2f %9.0f\n",
			    r->planner->name, 100 * r->overload, r->overload_ms, 100 * r->left, r->saturated_ms,
			    100 * r->remote, r->mean_cores, r->fewest_cores, r->mean_cores / r->fewest_cores,
			    r->moves_per_s, 100 * r->undone, r->max_load, us);
	}
	if (!once(job))
		sim_print_duels(job, results);
}

static json_t *to_json(const struct sim_job *job, const struct sim_result *r)
{
	double us = quantile(r->decision_us, r->n_decisions, 0.5);

	if (once(job))
		return json_pack(
		    "{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "planner", r->planner->name, "ratio_median",
		    quantile(r->ratio, r->n_trials, 0.5), "ratio_p99", quantile(r->ratio, r->n_trials, 0.99),
		    "ratio_p999", quantile(r->ratio, r->n_trials, 0.999), "ratio_max",
		    quantile(r->ratio, r->n_trials, 1), "within_1.02", share_up_to(r->ratio, r->n_trials, 1.02),
		    "within_1.05", share_up_to(r->ratio, r->n_trials, 1.05), "moved_mean", mean(r->moved, r->n_trials),
		    "moved_p99", quantile(r->moved, r->n_trials, 0.99), "decision_us", us);
	return json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "planner", r->planner->name,
			 "overload", r->overload, "overload_ms_per_s", r->overload_ms, "saturated_ms_per_s",
			 r->saturated_ms, "left", r->left, "remote", r->remote, "mean_cores", r->mean_cores,
			 "fewest_cores", r->fewest_cores, "moves_per_s", r->moves_per_s, "undone", r->undone,
			 "max_load", r->max_load, "decision_us", us);
}

static json_t *all_to_json(const struct sim_job *job, const struct sim_result *results)
{
	json_t *rows = json_array();

	for (unsigned i = 0; i < job->n_planners; i++)
		json_array_append_new(rows, to_json(job, &results[i]));
	return json_pack("{s:s, s:i, s:i, s:i, s:I, s:o, s:o*}", "scenario",
			 job->frames ? "trace" : job->scenario->name, "cores", (int)job->cores, "queues",
			 (int)job->queues, "trials", (int)job->trials, "seed", (json_int_t)job->seed, "planners", rows,
			 "duels", once(job) ? NULL : sim_duels_to_json(job, results));
}

static void write_value(FILE *file, const char *comma, const json_t *value)
{
	if (json_is_string(value))
		fprintf(file, "%s%s", comma, json_string_value(value));
	else if (json_is_integer(value))
		fprintf(file, "%s%lld", comma, (long long)json_integer_value(value));
	else
		fprintf(file, "%s%.6g", comma, json_number_value(value));
}

/* What is said once comes first in each line, then the members of its row in "planners". */
int sim_csv(const char *name, json_t *all)
{
	json_t *rows = json_object_get(all, "planners"), *value;
	FILE *file = fopen(name, "w");
	const char *key;

	if (!file) {
		fprintf(stderr, "%s: cannot be written: %s\n", name, strerror(errno));
		return -1;
	}
	for (unsigned i = 0; i <= json_array_size(rows); i++) {
		const char *comma = "";

		json_object_foreach (all, key, value) {
			if (json_is_array(value))
				continue;
			if (i == 0)
				fprintf(file, "%s%s", comma, key);
			else
				write_value(file, comma, value);
			comma = ",";
		}
		json_object_foreach (json_array_get(rows, i ? i - 1 : 0), key, value) {
			if (i == 0)
				fprintf(file, "%s%s", comma, key);
			else
				write_value(file, comma, value);
		}
		fprintf(file, "\n");
	}
	if (fclose(file)) {
		fprintf(stderr, "%s: cannot be written: %s\n", name, strerror(errno));
		return -1;
	}
	return 0;
}

/* A gnuplot that draws into the file; NULL with the reason on stderr. */
FILE *sim_plot(const char *svg)
{
	FILE *plot;

	if (system("command -v gnuplot >/dev/null 2>&1") != 0) {
		fprintf(stderr, "%s: gnuplot is needed to draw it and is not installed; apt-get install gnuplot-nox\n",
			svg);
		return NULL;
	}
	plot = popen("gnuplot", "w");
	if (!plot) {
		fprintf(stderr, "%s: gnuplot does not start: %s\n", svg, strerror(errno));
		return NULL;
	}
	fprintf(plot, "set terminal svg size 800,400 font 'sans,12' background rgb 'white'\nset output \"");
	for (const char *c = svg; *c; c++)
		fprintf(plot, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
	fprintf(plot, "\"\nset grid\nset key outside\nset yrange [0:*]\n");
	return plot;
}

int sim_plot_end(const char *svg, FILE *plot)
{
	int status = pclose(plot);

	if (status != 0)
		fprintf(stderr, "%s: gnuplot failed with status %d\n", svg, status);
	return status ? -1 : 0;
}

/* One trial each: how many are within a ratio. Over time: active cores, for each planner. */
static int write_svg(const struct sim_job *job, const struct sim_result *results)
{
	FILE *plot = sim_plot(job->svg);

	if (!plot)
		return -1;
	if (once(job))
		fprintf(plot,
			"set xlabel 'load of the busiest core / lower bound'\nset ylabel '%% of trials up to this'\n"
			"set xrange [1:1.5]\n");
	else
		fprintf(plot, "set xlabel 's'\nset ylabel 'active cores'\n");
	for (unsigned i = 0; i < job->n_planners; i++)
		fprintf(plot, "%s'-' with %s lw 2 title '%s'", i ? ", " : "plot ", once(job) ? "lines" : "steps",
			results[i].planner->name);
	fprintf(plot, "\n");
	for (unsigned i = 0; i < job->n_planners; i++) {
		const struct sim_result *r = &results[i];

		for (unsigned k = 0; once(job) && k < r->n_trials; k++)
			fprintf(plot, "%g %g\n", r->ratio[k], 100.0 * (k + 1) / r->n_trials);
		for (unsigned k = 0; k < r->n_samples; k++)
			fprintf(plot, "%g %g\n", r->sample_s[k], r->sample_cores[k]);
		fprintf(plot, "e\n");
	}
	return sim_plot_end(job->svg, plot);
}

/* Sorts the values of the results. */
int sim_output(const struct sim_job *job, struct sim_result *results)
{
	json_t *all;
	int ret = 0;

	for (unsigned i = 0; i < job->n_planners; i++) {
		qsort(results[i].ratio, results[i].n_trials, sizeof(double), ascending);
		qsort(results[i].moved, results[i].n_trials, sizeof(double), ascending);
		qsort(results[i].decision_us, results[i].n_decisions, sizeof(double), ascending);
	}
	all = all_to_json(job, results);
	if (!all) {
		fprintf(stderr, "dvmq-sim: out of memory\n");
		return -1;
	}
	if (job->json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		print_table(job, results);
	}
	if (job->csv && sim_csv(job->csv, all) < 0)
		ret = -1;
	if (job->svg && write_svg(job, results) < 0)
		ret = -1;
	json_decref(all);
	return ret;
}
