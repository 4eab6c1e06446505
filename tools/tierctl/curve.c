/* curve.c - see curve.h. */
#include "curve.h"

#include <string.h>

/* Generations whose age is not known, and those whose age is that of the one before, join the one before. */
static void add_points(struct curve *curve, const uint64_t bytes[TIERFS_HOTNESS_GENERATIONS],
		       const uint64_t age_ns[TIERFS_HOTNESS_GENERATIONS])
{
	double sum = (double)bytes[0];
	unsigned int g;

	curve->points = 1;
	for (g = 1; g < TIERFS_HOTNESS_GENERATIONS && age_ns[g]; g++) {
		double age_s = (double)age_ns[g] / 1e9;

		/* W up to the youngest age of generation g: all generations below it. */
		if (age_s > curve->age_s[curve->points - 1]) {
			curve->age_s[curve->points] = age_s;
			curve->bytes[curve->points++] = sum;
		} else {
			curve->bytes[curve->points - 1] = sum;
		}
		sum += (double)bytes[g];
		curve->older_bytes = (double)bytes[g]; /* of the last one only the beginning is known */
	}
	if (curve->points == 1) {
		curve->older_bytes = sum; /* no scan yet: no time is known */
		return;
	}
	for (; g < TIERFS_HOTNESS_GENERATIONS; g++)
		curve->older_bytes += (double)bytes[g];
}

/* The upper hull of the points, by a stack of its corners. */
static void make_hull(struct curve *curve)
{
	unsigned int corner[CURVE_POINTS_MAX], corners = 0;

	for (unsigned int i = 0; i < curve->points; i++) {
		while (corners >= 2) {
			unsigned int a = corner[corners - 2], b = corner[corners - 1];

			if ((curve->bytes[b] - curve->bytes[a]) * (curve->age_s[i] - curve->age_s[a]) >
			    (curve->bytes[i] - curve->bytes[a]) * (curve->age_s[b] - curve->age_s[a]))
				break;
			corners--;
		}
		corner[corners++] = i;
	}
	for (unsigned int k = 0; k + 1 < corners; k++) {
		unsigned int a = corner[k], b = corner[k + 1];
		double slope = (curve->bytes[b] - curve->bytes[a]) / (curve->age_s[b] - curve->age_s[a]);

		for (unsigned int i = a; i < b; i++)
			curve->slope[i] = slope;
		for (unsigned int i = a; i <= b; i++)
			curve->hull[i] = curve->bytes[a] + slope * (curve->age_s[i] - curve->age_s[a]);
	}
}

void curve_make(struct curve *curve, const uint64_t bytes[TIERFS_HOTNESS_GENERATIONS],
		const uint64_t age_ns[TIERFS_HOTNESS_GENERATIONS])
{
	memset(curve, 0, sizeof(*curve));
	add_points(curve, bytes, age_ns);
	make_hull(curve);
}

double curve_working_set(const struct curve *curve, double seconds, bool *ret_at_least)
{
	unsigned int last = curve->points - 1, i = 0;

	*ret_at_least = seconds > curve->age_s[last] && curve->older_bytes > 0;
	if (seconds >= curve->age_s[last])
		return curve->points == 1 ? 0 : curve->bytes[last];
	while (curve->age_s[i + 1] < seconds)
		i++;
	return curve->bytes[i] + (curve->bytes[i + 1] - curve->bytes[i]) * (seconds - curve->age_s[i]) /
					 (curve->age_s[i + 1] - curve->age_s[i]);
}

double curve_rate(const struct curve *curve, double budget_bytes)
{
	unsigned int i = 0;

	if (curve->points < 2)
		return 0;
	while (i + 2 < curve->points && curve->hull[i + 1] <= budget_bytes)
		i++;
	if (budget_bytes >= curve->bytes[curve->points - 1] + curve->older_bytes)
		return 0; /* all there is */
	return curve->slope[i];
}

double curve_budget(const struct curve *curve, double rate, bool *ret_at_least)
{
	unsigned int i = 0;

	*ret_at_least = false;
	while (i + 1 < curve->points && curve->slope[i] > rate)
		i++;
	if (i + 1 >= curve->points)
		*ret_at_least = curve->older_bytes > 0;
	return curve->hull[i];
}
